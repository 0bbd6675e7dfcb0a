"""What ``answer:`` says, as the form of a question: whatever a type alone does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medtask.display import format_suggestion, quote
from medtask.errors import TaskFault
from medtask.records import LETTERS
from medtask.tasks.config import (
    AnswerConfig,
    FieldsConfig,
    FreeTextConfig,
    MultiLabelConfig,
    MultipleChoiceConfig,
    SingleLabelConfig,
)
from medtask.tasks.document import Document, NullScalar
from medtask.tasks.field_schema import read_fields
from medtask.tasks.task import AnswerSpec, FreeText, MultiLabel, MultipleChoice, SingleLabel

DEFAULT_SECTIONS = ("analysis", "answer")  # what sections: true stands for
MAX_SECTIONS = 8
MAX_STOP_STRINGS = 16

_SECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def read_answer_spec(
    document: Document,
    config: AnswerConfig,
    names: Sequence[str],
    folder: Path,
    faults: list[TaskFault],
) -> AnswerSpec:
    """The form of the question; what is wrong with it goes into ``faults``.

    ``names``: the labels, none where they are not known. ``folder``: where a schema's file is
    looked for.
    """
    match config:
        case SingleLabelConfig():
            return SingleLabel(config.readout)
        case MultiLabelConfig():
            return _read_multi_label(document, config, names, faults)
        case MultipleChoiceConfig():
            return _read_multiple_choice(document, config, faults)
        case FreeTextConfig():
            return FreeText(
                config.max_tokens,
                _read_stop_strings(document, config.stop, faults),
                _read_sections(document, config.sections, faults),
                config.context,
                config.temperature,
                config.top_p,
                config.seed,
            )
        case FieldsConfig():
            return read_fields(document, config.json_schema, folder, config.max_tokens, faults)


def _read_multi_label(
    document: Document, config: MultiLabelConfig, names: Sequence[str], faults: list[TaskFault]
) -> MultiLabel:
    raw, path = config.thresholds, ("answer", "thresholds")
    defaults = MultiLabel(config.at_least_one, config.at_most)
    if _is_null(raw):
        return defaults
    if isinstance(raw, dict) and "fit" in raw and "fit" not in names:
        return _read_threshold_fit(document, raw, defaults, faults)
    if isinstance(raw, dict):
        unknown = [name for name in raw if names and name not in names]
        faults += (
            document.make_fault(
                f"{quote(name)} is no label{format_suggestion(name, names)}", *path, name
            )
            for name in unknown
        )
    elif not isinstance(raw, str):
        faults.append(
            document.make_fault(
                '"thresholds" is a number, or one for each label, or {fit: f1}', *path
            )
        )
        return defaults
    typed: Mapping[str, object] = raw if isinstance(raw, dict) else dict.fromkeys(names, raw)
    thresholds = {name: _parse_fraction(value) for name, value in typed.items()}
    for name, threshold in thresholds.items():
        if threshold is None:
            faults.append(
                document.make_fault(
                    f"the threshold of {quote(name)} must be a number from 0 to 1", *path, name
                )
            )
            if isinstance(raw, str):
                break
    return MultiLabel(
        config.at_least_one,
        config.at_most,
        {name: share for name, share in thresholds.items() if share is not None},
    )


def _read_threshold_fit(
    document: Document, raw: Mapping[str, object], defaults: MultiLabel, faults: list[TaskFault]
) -> MultiLabel:
    path = ("answer", "thresholds")
    unknown = [key for key in raw if key not in ("fit", "floor")]
    faults += (
        document.make_fault(f"unknown key {quote(key)} - there are fit, floor", *path, key)
        for key in unknown
    )
    fit, floor = raw["fit"], _parse_fraction(raw.get("floor", "0.9"))
    if fit not in ("f1", "recall"):
        faults.append(
            document.make_fault(f'"fit" is {quote(fit)} - it can be f1 or recall', *path, "fit")
        )
    if "floor" in raw and fit == "f1":
        faults.append(
            document.make_fault('"floor" belongs to {fit: recall, floor: 0.95}', *path, "floor")
        )
    if floor is None:
        faults.append(document.make_fault('"floor" must be a number from 0 to 1', *path, "floor"))
    return MultiLabel(
        defaults.at_least_one,
        defaults.at_most,
        {},
        "recall" if fit == "recall" else "f1",
        0.9 if floor is None else floor,
    )


def _read_multiple_choice(
    document: Document, config: MultipleChoiceConfig, faults: list[TaskFault]
) -> MultipleChoice:
    raw, path = config.options, ("answer", "options")
    columns = [raw] if isinstance(raw, str) else raw if isinstance(raw, list) else []
    columns = [column.strip() for column in columns if isinstance(column, str) and column.strip()]
    if not columns or (isinstance(raw, list) and len(columns) < len(raw)):
        faults.append(
            document.make_fault(
                '"options" is the column that holds them, '
                "or a list of columns with one option each",
                *path,
            )
        )
    elif len(columns) > len(LETTERS):
        faults.append(
            document.make_fault(
                f"{len(columns)} columns of options, and {len(LETTERS)} letters are all there are",
                *path,
            )
        )
    faults += (
        document.make_fault(f"the column {quote(column)} stands here a second time", *path, place)
        for place, column in enumerate(columns)
        if column in columns[:place]
    )
    faults += (
        document.make_fault(message, "answer", key) for key, message in _find_contradictions(config)
    )
    return MultipleChoice(
        tuple(columns), config.several, config.readout, config.normalise, config.debias
    )


def _find_contradictions(config: MultipleChoiceConfig) -> Iterator[tuple[str, str]]:
    if config.several and config.readout == "text":
        yield "readout", '"several" asks about every option by itself: leave out "readout: text"'
    if config.several and config.debias == "permute":
        yield "debias", '"several" asks about every option by itself: leave out "debias: permute"'
    if not config.several and config.readout == "text" and config.debias == "permute":
        yield "debias", '"debias: permute" is about letters: leave it out, or "readout: text"'
    if "normalise" in config.model_fields_set and config.readout == "letter":
        yield "normalise", '"normalise" is about the length of texts: it belongs to "readout: text"'


def _read_stop_strings(document: Document, raw: object, faults: list[TaskFault]) -> tuple[str, ...]:
    if _is_null(raw):
        return ()
    stops = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(stop, str) and stop for stop in stops) or len(stops) > MAX_STOP_STRINGS:
        faults.append(
            document.make_fault(
                f'"stop" is a text, or a list of up to {MAX_STOP_STRINGS} texts', "answer", "stop"
            )
        )
        return ()
    return tuple(map(str, stops))


def _read_sections(document: Document, raw: object, faults: list[TaskFault]) -> tuple[str, ...]:
    if _is_null(raw) or (isinstance(raw, str) and raw.casefold() in ("false", "no", "off")):
        return ()
    if isinstance(raw, str) and raw.casefold() in ("true", "yes", "on"):
        return DEFAULT_SECTIONS
    names = raw if isinstance(raw, list) else []
    if not 0 < len(names) <= MAX_SECTIONS or len(set(map(str, names))) < len(names):
        message = (
            f'"sections" is true, or a list of up to {MAX_SECTIONS} different names, the '
            "last of which is the answer"
        )
        faults.append(document.make_fault(message, "answer", "sections"))
        return ()
    for place, name in enumerate(names):
        if not isinstance(name, str) or not _SECTION_NAME.fullmatch(name):
            message = (
                f"the section {quote(name)} cannot be a tag - use small letters, digits, - "
                "and _, as in <analysis>"
            )
            faults.append(document.make_fault(message, "answer", "sections", place))
    return tuple(map(str, names))


def _parse_fraction(value: object) -> float | None:
    try:
        fraction = float(str(value))
    except ValueError:
        return None
    return fraction if 0 <= fraction <= 1 else None


def _is_null(raw: object) -> bool:
    return raw is None or isinstance(raw, NullScalar)
