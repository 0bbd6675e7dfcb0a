"""The keys of a task file and the types of their values; what labels, options, fields and examples
hold is checked beside this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medtask.errors import TaskFault
from medtask.tasks.hints import closest, did_you_mean, quote
from medtask.tasks.source import Document, KeyPath, NullWord

LISTED_FAULTS = 50
MOST_TOKENS = 1_000_000

_Given = BeforeValidator(lambda value: None if isinstance(value, NullWord) else value)
_Text = Annotated[str, Field(min_length=1), _Given]
_OptionalText = Annotated[Annotated[str, Field(min_length=1)] | None, _Given]

# A description ends the sentence '"key" must be ...'.
_SHARE = Field(ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
_COUNT = Field(ge=1, le=MOST_TOKENS, description=f"a whole number from 1 to {MOST_TOKENS:,}")
_YES_NO = Field(description="true or false")


class Part(BaseModel):
    """One mapping of a task file."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class ReviewPart(Part):
    confidence_below: Annotated[float, _SHARE] = 0.5
    off_set_above: Annotated[float, _SHARE] = 0.9


class ReasoningPart(Part):
    budget: Annotated[int, _COUNT]
    deadline_s: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="a number of seconds above 0"),
        _Given,
    ] = None


class GatePart(Part):
    min_words: Annotated[
        int, Field(ge=0, le=MOST_TOKENS, description="a whole number of words")
    ] = 0
    novelty: Annotated[float | None, _SHARE, _Given] = None
    too_long: Literal["error", "head_tail", "chunk"] = "error"
    combine: Literal["mean", "max", "vote"] = "mean"


class ExamplesPart(Part):
    file: _Text
    select: Literal["first", "nearest"] = "first"
    k: Annotated[int, Field(ge=1, le=200, description="a whole number from 1 to 200")] = 8
    by: Literal["tfidf", "minilm"] = "tfidf"


class WhenPart(Part):
    confidence_below: Annotated[float | None, _SHARE, _Given] = None
    status: Any = None
    answer_in: Any = None


class PassPart(Part):
    name: _Text
    when: Any
    instruction: _OptionalText = None
    labels: Any = None
    model: _OptionalText = None
    reasoning: Any = None
    examples: Any = None


class LabelPart(Part):
    kind: Any
    labels: Any
    abstain: Any = None
    readout: Literal["name", "code"] = "name"


class LabelsPart(Part):
    kind: Any
    labels: Any
    at_least_one: Annotated[bool, _YES_NO] = False
    at_most: Annotated[int | None, _COUNT, _Given] = None
    thresholds: Any = None


class ChoicePart(Part):
    kind: Any
    options: Any
    several: Annotated[bool, _YES_NO] = False
    readout: Literal["letter", "text"] = "letter"
    normalise: Annotated[bool, _YES_NO] = True
    debias: Literal["none", "permute"] = "none"


class TextPart(Part):
    kind: Any
    max_tokens: Annotated[int, _COUNT] = 256
    stop: Any = None
    sections: Any = None
    context: _OptionalText = None
    temperature: Annotated[
        float, Field(ge=0, le=5, allow_inf_nan=False, description="a number from 0 to 5")
    ] = 0.0
    top_p: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="a number above 0, up to 1")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63, description="a whole number from 0 on")] = 0


class FieldsPart(Part):
    kind: Any
    json_schema: Annotated[Any, Field(alias="schema")]  # pydantic has a "schema" of its own
    max_tokens: Annotated[int, _COUNT] = 512


AnswerPart = LabelPart | LabelsPart | ChoicePart | TextPart | FieldsPart


class TaskPart(Part):
    name: _OptionalText = None
    instruction: _Text
    input: _Text
    id: _OptionalText = None
    gold: _OptionalText = None
    group: _OptionalText = None
    data: _OptionalText = None
    model: _OptionalText = None
    answer: Any
    examples: Any = None
    reasoning: Any = None
    gate: Any = None
    phi: bool = False
    passes: Any = None
    review: Any = None


ANSWERS: Mapping[str, type[AnswerPart]] = {
    "label": LabelPart,
    "labels": LabelsPart,
    "choice": ChoicePart,
    "answer": TextPart,
    "fields": FieldsPart,
}
_PARTS: Mapping[str, type[Part]] = {
    "review": ReviewPart,
    "reasoning": ReasoningPart,
    "gate": GatePart,
    "examples": ExamplesPart,
    "when": WhenPart,
}


def list_keys(part: type[Part]) -> list[str]:
    """The keys that a part may hold, as they are typed."""
    return [field.alias or name for name, field in part.model_fields.items()]


_ANSWER_KEYS = list(dict.fromkeys(key for part in ANSWERS.values() for key in list_keys(part)))
# Where a key belongs; of keys with several places the first one counts, which stands last here.
_HOMES: Mapping[str, str] = {
    **{key: name for name in reversed(list(_PARTS)) for key in list_keys(_PARTS[name])},
    **dict.fromkeys(_ANSWER_KEYS, "answer"),
    **dict.fromkeys(list_keys(TaskPart), ""),
}


def find_kind(answer: object) -> str | None:
    """The kind that an ``answer`` says, or nearly says; None where it says none."""
    kind = answer.get("kind") if isinstance(answer, dict) else None
    return kind if kind in ANSWERS else closest(str(kind), ANSWERS) if kind else None


def settle_keys(document: Document) -> tuple[Document, list[TaskFault]]:
    """The document with known keys only, and a fault for every other key.

    A key that is nearly right is read as the one that was meant, so that the faults behind it are
    found as well.
    """
    faults: list[TaskFault] = []
    waiting: list[KeyPath] = [()]
    while waiting:
        path = waiting.pop()
        document, found = _settle_part(document, path)
        faults += found
        waiting += _find_parts(document, path)
    return document, faults


def _find_parts(document: Document, path: KeyPath) -> Iterator[KeyPath]:
    """The mappings right below ``path`` whose keys are those of a part."""
    part = document.at(*path)
    if not isinstance(part, dict) or (path and not isinstance(path[-1], int)):
        return
    for key, value in part.items():
        if isinstance(value, dict) and (key in _PARTS or key == "answer"):
            yield (*path, key)
        elif isinstance(value, list) and key == "passes":
            yield from (
                (*path, key, index) for index, item in enumerate(value) if isinstance(item, dict)
            )


def _known_keys(document: Document, path: KeyPath) -> Sequence[str]:
    if not path:
        return list_keys(TaskPart)
    if path == ("answer",):
        kind = find_kind(document.at(*path))
        return list_keys(ANSWERS[kind]) if kind else _ANSWER_KEYS
    return list_keys(PassPart if isinstance(path[-1], int) else _PARTS[path[-1]])


def _settle_part(document: Document, path: KeyPath) -> tuple[Document, list[TaskFault]]:
    part = document.at(*path)
    assert isinstance(part, dict)
    known = _known_keys(document, path)
    settled = {key: value for key, value in part.items() if key in known}
    faults = []
    lines, blocks = document.lines, document.blocks
    unknown = [key for key in part if key not in known]
    for key in unknown[:LISTED_FAULTS]:
        faults.append(document.fault(_explain_key(key, path, known, document), *path, key))
        meant = closest(key, known)
        if meant and meant not in settled and key not in _HOMES:
            settled[meant] = part[key]
            lines, blocks = (
                _move(places, (*path, key), (*path, meant)) for places in (lines, blocks)
            )
    if len(unknown) > LISTED_FAULTS:
        faults.append(
            document.fault(f"and {len(unknown) - LISTED_FAULTS:,} more unknown keys", *path)
        )
    return replace(
        document, data=_put(document.data, path, settled), lines=lines, blocks=blocks
    ), faults


def _explain_key(key: str, path: KeyPath, known: Sequence[str], document: Document) -> str:
    if path == ("answer",) and key in _ANSWER_KEYS:
        homes = [kind for kind, part in ANSWERS.items() if key in list_keys(part)]
        kinds = f"the kind {homes[0]}" if len(homes) == 1 else f"the kinds {' and '.join(homes)}"
        return (
            f"{quote(key)} belongs to {kinds}, and this task is of the kind "
            f"{find_kind(document.at(*path))}"
        )
    if near := did_you_mean(key, () if key in _HOMES else known):
        return f"unknown key {quote(key)}{near}"
    if meant := closest(key, _HOMES):
        home = (
            f"under {quote(_HOMES[meant])}" if _HOMES[meant] else "beside instruction, at the left"
        )
        return f"unknown key {quote(key)} - {quote(meant)} belongs {home}"
    return f"unknown key {quote(key)} - there are {', '.join(known)}"


def _put(data: Any, path: KeyPath, value: object) -> Any:
    """``data`` with ``value`` at ``path``; what is on the way is copied, not changed."""
    if not path:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = _put(data[path[0]], path[1:], value)
    return copy


def _move(places: Mapping[KeyPath, int], old: KeyPath, new: KeyPath) -> dict[KeyPath, int]:
    return {
        (*new, *path[len(old) :]) if path[: len(old)] == old else path: line
        for path, line in places.items()
    }


P = TypeVar("P", bound=Part)


def read_part(
    document: Document, path: KeyPath, part: type[P], faults: list[TaskFault]
) -> P | None:
    """The plain values of the mapping at ``path``; None where something is wrong with them, which
    ``faults`` then tells.
    """
    try:
        return part.model_validate(document.at(*path))
    except ValidationError as error:
        for fault in error.errors():
            message = _explain_value(
                part, fault["type"], (*path, *fault["loc"]), fault["input"], fault.get("ctx", {})
            )
            faults.append(document.fault(message, *path, *fault["loc"]))
        return None


def read_answer(document: Document, faults: list[TaskFault]) -> AnswerPart | None:
    """The plain values of ``answer``, which must say its kind."""
    answer = document.at("answer")
    if not isinstance(answer, dict):
        if "answer" in document.data:
            message = (
                '"answer" holds keys of its own: kind, and what belongs to it, as in '
                "{kind: label, labels: [yes, no]}"
            )
            faults.append(document.fault(message, "answer"))
        return None
    said, kind = answer.get("kind"), find_kind(answer)
    if said not in ANSWERS:
        meant = did_you_mean(str(said), ANSWERS) or f" - there are {', '.join(ANSWERS)}"
        message = (
            f"unknown kind {quote(said)}{meant}"
            if "kind" in answer
            else f'"answer" has no "kind" - there are {", ".join(ANSWERS)}'
        )
        faults.append(document.fault(message, "answer", "kind"))
    return (
        read_part(document, ("answer",), ANSWERS[kind], faults)
        if kind and "kind" in answer
        else None
    )


def read_passes(document: Document, faults: list[TaskFault]) -> list[tuple[KeyPath, PassPart]]:
    """The plain values of every pass, with its place; faulty ones are left out."""
    raw = document.at("passes")
    if raw is None or isinstance(raw, NullWord):
        return []
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        faults.append(
            document.fault('"passes" is a list, and every pass begins with "- name:"', "passes")
        )
        return []
    read = [
        (("passes", index), read_part(document, ("passes", index), PassPart, faults))
        for index in range(len(raw))
    ]
    return [(path, part) for path, part in read if part is not None]


def _explain_value(
    part: type[Part], kind: str, path: KeyPath, value: object, context: Mapping[str, Any]
) -> str:
    key = quote(path[-1])
    match kind:
        case "missing":
            return (
                f"{_name_place(path[:-1])} has no {key}" if len(path) > 1 else f"{key} is missing"
            )
        case "literal_error":
            return f"{key} is {quote(value)} - it can be {context['expected'].replace(chr(39), '')}"
        case "model_type":
            return f"{key} holds keys of its own: {', '.join(list_keys(part))}"
        case "string_type" if isinstance(value, dict | list):
            return f'{key} must be a text - put " around it'
        case "string_type" | "string_too_short":
            return f"{key} is blank"
    return f"{key} must be {part.model_fields[str(path[-1])].description}"


def _name_place(path: KeyPath) -> str:
    return f"pass {path[-1] + 1}" if isinstance(path[-1], int) else quote(path[-1])
