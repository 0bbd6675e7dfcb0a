"""What ``answer:`` says, as the form of a question: whatever a type alone does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medtask.errors import TaskFault
from medtask.records import LETTERS
from medtask.tasks.fields import read_fields
from medtask.tasks.hints import did_you_mean, quote
from medtask.tasks.schema import AnswerPart, ChoicePart, FieldsPart, LabelPart, LabelsPart, TextPart
from medtask.tasks.source import Document, NullWord
from medtask.tasks.task import AnyLabels, Choice, Form, FreeText, OneLabel

SECTIONS = ("analysis", "answer")  # what sections: true stands for
MAX_SECTIONS = 8
MAX_STOPS = 16

_SECTION = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def read_form(
    document: Document,
    part: AnswerPart,
    names: Sequence[str],
    folder: Path,
    faults: list[TaskFault],
) -> Form:
    """The form of the question; what is wrong with it goes into ``faults``.

    ``names``: the labels, none where they are not known. ``folder``: where a schema's file is
    looked for.
    """
    match part:
        case LabelPart():
            return OneLabel(part.readout)
        case LabelsPart():
            return _read_any_labels(document, part, names, faults)
        case ChoicePart():
            return _read_choice(document, part, faults)
        case TextPart():
            return FreeText(
                part.max_tokens,
                _read_stops(document, part.stop, faults),
                _read_sections(document, part.sections, faults),
                part.context,
                part.temperature,
                part.top_p,
                part.seed,
            )
        case FieldsPart():
            return read_fields(document, part.json_schema, folder, part.max_tokens, faults)


def _read_any_labels(
    document: Document, part: LabelsPart, names: Sequence[str], faults: list[TaskFault]
) -> AnyLabels:
    raw, path = part.thresholds, ("answer", "thresholds")
    plain = AnyLabels(part.at_least_one, part.at_most)
    if _is_nothing(raw):
        return plain
    if isinstance(raw, dict) and "fit" in raw and "fit" not in names:
        return _read_fit(document, raw, plain, faults)
    if isinstance(raw, dict):
        strange = [name for name in raw if names and name not in names]
        faults += (
            document.fault(f"{quote(name)} is no label{did_you_mean(name, names)}", *path, name)
            for name in strange
        )
    elif not isinstance(raw, str):
        faults.append(
            document.fault('"thresholds" is a number, or one for each label, or {fit: f1}', *path)
        )
        return plain
    typed: Mapping[str, object] = raw if isinstance(raw, dict) else dict.fromkeys(names, raw)
    thresholds = {name: _read_share(value) for name, value in typed.items()}
    for name, share in thresholds.items():
        if share is None:
            faults.append(
                document.fault(
                    f"the threshold of {quote(name)} must be a number from 0 to 1", *path, name
                )
            )
            if isinstance(raw, str):
                break
    return AnyLabels(
        part.at_least_one,
        part.at_most,
        {name: share for name, share in thresholds.items() if share is not None},
    )


def _read_fit(
    document: Document, raw: Mapping[str, object], plain: AnyLabels, faults: list[TaskFault]
) -> AnyLabels:
    path = ("answer", "thresholds")
    strange = [key for key in raw if key not in ("fit", "floor")]
    faults += (
        document.fault(f"unknown key {quote(key)} - there are fit, floor", *path, key)
        for key in strange
    )
    fit, floor = raw["fit"], _read_share(raw.get("floor", "0.9"))
    if fit not in ("f1", "recall"):
        faults.append(
            document.fault(f'"fit" is {quote(fit)} - it can be f1 or recall', *path, "fit")
        )
    if "floor" in raw and fit == "f1":
        faults.append(
            document.fault('"floor" belongs to {fit: recall, floor: 0.95}', *path, "floor")
        )
    if floor is None:
        faults.append(document.fault('"floor" must be a number from 0 to 1', *path, "floor"))
    return AnyLabels(
        plain.at_least_one,
        plain.at_most,
        {},
        "recall" if fit == "recall" else "f1",
        0.9 if floor is None else floor,
    )


def _read_choice(document: Document, part: ChoicePart, faults: list[TaskFault]) -> Choice:
    raw, path = part.options, ("answer", "options")
    columns = [raw] if isinstance(raw, str) else raw if isinstance(raw, list) else []
    columns = [column.strip() for column in columns if isinstance(column, str) and column.strip()]
    if not columns or (isinstance(raw, list) and len(columns) < len(raw)):
        faults.append(
            document.fault(
                '"options" is the column that holds them, '
                "or a list of columns with one option each",
                *path,
            )
        )
    elif len(columns) > len(LETTERS):
        faults.append(
            document.fault(
                f"{len(columns)} columns of options, and {len(LETTERS)} letters are all there are",
                *path,
            )
        )
    faults += (
        document.fault(f"the column {quote(column)} stands here a second time", *path, place)
        for place, column in enumerate(columns)
        if column in columns[:place]
    )
    faults += (
        document.fault(message, "answer", key) for key, message in _find_contradictions(part)
    )
    return Choice(tuple(columns), part.several, part.readout, part.normalise, part.debias)


def _find_contradictions(part: ChoicePart) -> Iterator[tuple[str, str]]:
    if part.several and part.readout == "text":
        yield "readout", '"several" asks about every option by itself: leave out "readout: text"'
    if part.several and part.debias == "permute":
        yield "debias", '"several" asks about every option by itself: leave out "debias: permute"'
    if not part.several and part.readout == "text" and part.debias == "permute":
        yield "debias", '"debias: permute" is about letters: leave it out, or "readout: text"'
    if "normalise" in part.model_fields_set and part.readout == "letter":
        yield "normalise", '"normalise" is about the length of texts: it belongs to "readout: text"'


def _read_stops(document: Document, raw: object, faults: list[TaskFault]) -> tuple[str, ...]:
    if _is_nothing(raw):
        return ()
    stops = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(stop, str) and stop for stop in stops) or len(stops) > MAX_STOPS:
        faults.append(
            document.fault(
                f'"stop" is a text, or a list of up to {MAX_STOPS} texts', "answer", "stop"
            )
        )
        return ()
    return tuple(map(str, stops))


def _read_sections(document: Document, raw: object, faults: list[TaskFault]) -> tuple[str, ...]:
    if _is_nothing(raw) or (isinstance(raw, str) and raw.casefold() in ("false", "no", "off")):
        return ()
    if isinstance(raw, str) and raw.casefold() in ("true", "yes", "on"):
        return SECTIONS
    names = raw if isinstance(raw, list) else []
    if not 0 < len(names) <= MAX_SECTIONS or len(set(map(str, names))) < len(names):
        message = (
            f'"sections" is true, or a list of up to {MAX_SECTIONS} different names, the '
            "last of which is the answer"
        )
        faults.append(document.fault(message, "answer", "sections"))
        return ()
    for place, name in enumerate(names):
        if not isinstance(name, str) or not _SECTION.fullmatch(name):
            message = (
                f"the section {quote(name)} cannot be a tag - use small letters, digits, - "
                "and _, as in <analysis>"
            )
            faults.append(document.fault(message, "answer", "sections", place))
    return tuple(map(str, names))


def _read_share(value: object) -> float | None:
    try:
        share = float(str(value))
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None


def _is_nothing(raw: object) -> bool:
    return raw is None or isinstance(raw, NullWord)
