"""The keys of a task file and the types of their values; what labels, options, fields and examples
hold is checked beside this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medtask.display import find_closest, format_suggestion, quote
from medtask.errors import TaskFault
from medtask.tasks.document import Document, KeyPath, NullScalar

MAX_LISTED_FAULTS = 50
MAX_TOKEN_COUNT = 1_000_000

_NullAsNone = BeforeValidator(lambda value: None if isinstance(value, NullScalar) else value)
_Text = Annotated[str, Field(min_length=1), _NullAsNone]
_OptionalText = Annotated[Annotated[str, Field(min_length=1)] | None, _NullAsNone]

# A description ends the sentence '"key" must be ...'.
_FRACTION = Field(ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
_COUNT = Field(
    ge=1, le=MAX_TOKEN_COUNT, description=f"a whole number from 1 to {MAX_TOKEN_COUNT:,}"
)
_BOOLEAN = Field(description="true or false")


class ConfigModel(BaseModel):
    """One mapping of a task file."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class ReviewConfig(ConfigModel):
    confidence_below: Annotated[float, _FRACTION] = 0.5
    off_set_above: Annotated[float, _FRACTION] = 0.9


class ReasoningConfig(ConfigModel):
    budget: Annotated[int, _COUNT]
    deadline_s: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="a number of seconds above 0"),
        _NullAsNone,
    ] = None


class GateConfig(ConfigModel):
    min_words: Annotated[
        int, Field(ge=0, le=MAX_TOKEN_COUNT, description="a whole number of words")
    ] = 0
    novelty: Annotated[float | None, _FRACTION, _NullAsNone] = None
    too_long: Literal["error", "head_tail", "chunk"] = "error"
    combine: Literal["mean", "max", "vote"] = "mean"


class ExamplesConfig(ConfigModel):
    file: _Text
    select: Literal["first", "nearest"] = "first"
    k: Annotated[int, Field(ge=1, le=200, description="a whole number from 1 to 200")] = 8
    by: Literal["tfidf", "minilm"] = "tfidf"


class PassConditionConfig(ConfigModel):
    confidence_below: Annotated[float | None, _FRACTION, _NullAsNone] = None
    status: Any = None
    answer_in: Any = None


class PassConfig(ConfigModel):
    name: _Text
    when: Any
    instruction: _OptionalText = None
    labels: Any = None
    model: _OptionalText = None
    reasoning: Any = None
    examples: Any = None


class SingleLabelConfig(ConfigModel):
    kind: Any
    labels: Any
    abstain: Any = None
    readout: Literal["name", "code"] = "name"


class MultiLabelConfig(ConfigModel):
    kind: Any
    labels: Any
    at_least_one: Annotated[bool, _BOOLEAN] = False
    at_most: Annotated[int | None, _COUNT, _NullAsNone] = None
    thresholds: Any = None


class MultipleChoiceConfig(ConfigModel):
    kind: Any
    options: Any
    several: Annotated[bool, _BOOLEAN] = False
    readout: Literal["letter", "text"] = "letter"
    normalise: Annotated[bool, _BOOLEAN] = True
    debias: Literal["none", "permute"] = "none"


class FreeTextConfig(ConfigModel):
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


class FieldsConfig(ConfigModel):
    kind: Any
    json_schema: Annotated[Any, Field(alias="schema")]  # pydantic has a "schema" of its own
    max_tokens: Annotated[int, _COUNT] = 512


AnswerConfig = (
    SingleLabelConfig | MultiLabelConfig | MultipleChoiceConfig | FreeTextConfig | FieldsConfig
)


class TaskConfig(ConfigModel):
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


ANSWER_CONFIGS: Mapping[str, type[AnswerConfig]] = {
    "label": SingleLabelConfig,
    "labels": MultiLabelConfig,
    "choice": MultipleChoiceConfig,
    "answer": FreeTextConfig,
    "fields": FieldsConfig,
}
_SECTION_CONFIGS: Mapping[str, type[ConfigModel]] = {
    "review": ReviewConfig,
    "reasoning": ReasoningConfig,
    "gate": GateConfig,
    "examples": ExamplesConfig,
    "when": PassConditionConfig,
}


def list_keys(config_type: type[ConfigModel]) -> list[str]:
    """The keys that a part may hold, as they are typed."""
    return [field.alias or name for name, field in config_type.model_fields.items()]


_ANSWER_KEYS = list(
    dict.fromkeys(key for part in ANSWER_CONFIGS.values() for key in list_keys(part))
)
# Where a key belongs; of keys with several places the first one counts, which stands last here.
_KEY_SECTIONS: Mapping[str, str] = {
    **{
        key: name
        for name in reversed(list(_SECTION_CONFIGS))
        for key in list_keys(_SECTION_CONFIGS[name])
    },
    **dict.fromkeys(_ANSWER_KEYS, "answer"),
    **dict.fromkeys(list_keys(TaskConfig), ""),
}


def find_kind(answer: object) -> str | None:
    """The kind that an ``answer`` says, or nearly says; None where it says none."""
    kind = answer.get("kind") if isinstance(answer, dict) else None
    return (
        kind
        if kind in ANSWER_CONFIGS
        else find_closest(str(kind), ANSWER_CONFIGS)
        if kind
        else None
    )


def resolve_keys(document: Document) -> tuple[Document, list[TaskFault]]:
    """The document with known keys only, and a fault for every other key.

    A key that is nearly right is read as the one that was meant, so that the faults behind it are
    found as well.
    """
    faults: list[TaskFault] = []
    waiting: list[KeyPath] = [()]
    while waiting:
        path = waiting.pop()
        document, found = _resolve_section_keys(document, path)
        faults += found
        waiting += _find_sections(document, path)
    return document, faults


def _find_sections(document: Document, path: KeyPath) -> Iterator[KeyPath]:
    """The mappings right below ``path`` whose keys are those of a part."""
    section = document.get_value(*path)
    if not isinstance(section, dict) or (path and not isinstance(path[-1], int)):
        return
    for key, value in section.items():
        if isinstance(value, dict) and (key in _SECTION_CONFIGS or key == "answer"):
            yield (*path, key)
        elif isinstance(value, list) and key == "passes":
            yield from (
                (*path, key, index) for index, item in enumerate(value) if isinstance(item, dict)
            )


def _list_known_keys(document: Document, path: KeyPath) -> Sequence[str]:
    if not path:
        return list_keys(TaskConfig)
    if path == ("answer",):
        kind = find_kind(document.get_value(*path))
        return list_keys(ANSWER_CONFIGS[kind]) if kind else _ANSWER_KEYS
    return list_keys(PassConfig if isinstance(path[-1], int) else _SECTION_CONFIGS[path[-1]])


def _resolve_section_keys(document: Document, path: KeyPath) -> tuple[Document, list[TaskFault]]:
    section = document.get_value(*path)
    assert isinstance(section, dict)
    known = _list_known_keys(document, path)
    resolved = {key: value for key, value in section.items() if key in known}
    faults = []
    lines, blocks = document.lines, document.block_lines
    unknown = [key for key in section if key not in known]
    for key in unknown[:MAX_LISTED_FAULTS]:
        faults.append(document.make_fault(_explain_key(key, path, known, document), *path, key))
        suggestion = find_closest(key, known)
        if suggestion and suggestion not in resolved and key not in _KEY_SECTIONS:
            resolved[suggestion] = section[key]
            lines, blocks = (
                _move_lines(places, (*path, key), (*path, suggestion)) for places in (lines, blocks)
            )
    if len(unknown) > MAX_LISTED_FAULTS:
        faults.append(
            document.make_fault(
                f"and {len(unknown) - MAX_LISTED_FAULTS:,} more unknown keys", *path
            )
        )
    return replace(
        document,
        data=_replace_value(document.data, path, resolved),
        lines=lines,
        block_lines=blocks,
    ), faults


def _explain_key(key: str, path: KeyPath, known: Sequence[str], document: Document) -> str:
    if path == ("answer",) and key in _ANSWER_KEYS:
        kinds_with_key = [kind for kind, part in ANSWER_CONFIGS.items() if key in list_keys(part)]
        kinds = (
            f"the kind {kinds_with_key[0]}"
            if len(kinds_with_key) == 1
            else f"the kinds {' and '.join(kinds_with_key)}"
        )
        return (
            f"{quote(key)} belongs to {kinds}, and this task is of the kind "
            f"{find_kind(document.get_value(*path))}"
        )
    if near := format_suggestion(key, () if key in _KEY_SECTIONS else known):
        return f"unknown key {quote(key)}{near}"
    if suggestion := find_closest(key, _KEY_SECTIONS):
        home = (
            f"under {quote(_KEY_SECTIONS[suggestion])}"
            if _KEY_SECTIONS[suggestion]
            else "beside instruction, at the left"
        )
        return f"unknown key {quote(key)} - {quote(suggestion)} belongs {home}"
    return f"unknown key {quote(key)} - there are {', '.join(known)}"


def _replace_value(data: Any, path: KeyPath, value: object) -> Any:
    """``data`` with ``value`` at ``path``; what is on the way is copied, not changed."""
    if not path:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = _replace_value(data[path[0]], path[1:], value)
    return copy


def _move_lines(lines: Mapping[KeyPath, int], old: KeyPath, new: KeyPath) -> dict[KeyPath, int]:
    return {
        (*new, *path[len(old) :]) if path[: len(old)] == old else path: line
        for path, line in lines.items()
    }


ConfigT = TypeVar("ConfigT", bound=ConfigModel)


def read_config(
    document: Document, path: KeyPath, config_type: type[ConfigT], faults: list[TaskFault]
) -> ConfigT | None:
    """The plain values of the mapping at ``path``; None where something is wrong with them, which
    ``faults`` then tells.
    """
    try:
        return config_type.model_validate(document.get_value(*path))
    except ValidationError as error:
        for fault in error.errors():
            message = _explain_value(
                config_type,
                fault["type"],
                (*path, *fault["loc"]),
                fault["input"],
                fault.get("ctx", {}),
            )
            faults.append(document.make_fault(message, *path, *fault["loc"]))
        return None


def read_answer_config(document: Document, faults: list[TaskFault]) -> AnswerConfig | None:
    """The plain values of ``answer``, which must say its kind."""
    answer = document.get_value("answer")
    if not isinstance(answer, dict):
        if "answer" in document.data:
            message = (
                '"answer" holds keys of its own: kind, and what belongs to it, as in '
                "{kind: label, labels: [yes, no]}"
            )
            faults.append(document.make_fault(message, "answer"))
        return None
    given_kind, kind = answer.get("kind"), find_kind(answer)
    if given_kind not in ANSWER_CONFIGS:
        hint = (
            format_suggestion(str(given_kind), ANSWER_CONFIGS)
            or f" - there are {', '.join(ANSWER_CONFIGS)}"
        )
        message = (
            f"unknown kind {quote(given_kind)}{hint}"
            if "kind" in answer
            else f'"answer" has no "kind" - there are {", ".join(ANSWER_CONFIGS)}'
        )
        faults.append(document.make_fault(message, "answer", "kind"))
    return (
        read_config(document, ("answer",), ANSWER_CONFIGS[kind], faults)
        if kind and "kind" in answer
        else None
    )


def read_pass_configs(
    document: Document, faults: list[TaskFault]
) -> list[tuple[KeyPath, PassConfig]]:
    """The plain values of every pass, with its place; faulty ones are left out."""
    raw = document.get_value("passes")
    if raw is None or isinstance(raw, NullScalar):
        return []
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        faults.append(
            document.make_fault(
                '"passes" is a list, and every pass begins with "- name:"', "passes"
            )
        )
        return []
    read = [
        (("passes", index), read_config(document, ("passes", index), PassConfig, faults))
        for index in range(len(raw))
    ]
    return [(path, part) for path, part in read if part is not None]


def _explain_value(
    config_type: type[ConfigModel],
    error_type: str,
    path: KeyPath,
    value: object,
    context: Mapping[str, Any],
) -> str:
    key = quote(path[-1])
    match error_type:
        case "missing":
            return (
                f"{_describe_path(path[:-1])} has no {key}"
                if len(path) > 1
                else f"{key} is missing"
            )
        case "literal_error":
            return f"{key} is {quote(value)} - it can be {context['expected'].replace(chr(39), '')}"
        case "model_type":
            return f"{key} holds keys of its own: {', '.join(list_keys(config_type))}"
        case "string_type" if isinstance(value, dict | list):
            return f'{key} must be a text - put " around it'
        case "string_type" | "string_too_short":
            return f"{key} is blank"
    return f"{key} must be {config_type.model_fields[str(path[-1])].description}"


def _describe_path(path: KeyPath) -> str:
    return f"pass {path[-1] + 1}" if isinstance(path[-1], int) else quote(path[-1])
