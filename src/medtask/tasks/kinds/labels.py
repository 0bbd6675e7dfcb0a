"""Kind ``labels``: any number of the task's labels, each decided independently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

from medtask.display import format_count, format_suggestion, quote
from medtask.records import Branch, Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.config import BOOLEAN, COUNT, ConfigModel, NullAsNone
from medtask.tasks.containers import parse_container
from medtask.tasks.kinds.base import TaskKind
from medtask.tasks.kinds.label import (
    describe_label,
    describe_unknown_label,
    find_unknown_labels,
    list_labels,
    select_labels,
)
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.task import MultiLabel, Task

YES_NO = ("yes", "no")
LABEL_SEPARATORS = (";", "|", ",")
MAX_LABEL_LIST_LENGTH = 20_000  # characters: a longer text is not split into labels
_THRESHOLDS = ("answer", "thresholds")


class MultiLabelConfig(ConfigModel):
    kind: Any
    labels: Any
    at_least_one: Annotated[bool, BOOLEAN] = False
    at_most: Annotated[int | None, COUNT, NullAsNone] = None
    thresholds: Any = None


class LabelsKind(TaskKind[MultiLabel]):
    """One branch for each label, whose candidates are yes and no."""

    config_type = MultiLabelConfig
    spec_type = MultiLabel

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: MultiLabelConfig, label_names: Sequence[str]
    ) -> MultiLabel:
        spec, raw = MultiLabel(config.at_least_one, config.at_most), config.thresholds
        if is_null(raw):
            return spec
        if isinstance(raw, dict) and "fit" in raw and "fit" not in label_names:
            return _read_threshold_fit(reader, raw, spec)
        if not isinstance(raw, dict | str):
            reader.add_fault(
                '"thresholds" is a number, or one for each label, or {fit: f1}', *_THRESHOLDS
            )
            return spec
        return replace(spec, thresholds=_read_thresholds(reader, raw, label_names))

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """Names from a list, a list as text, or a text with separators; unknown names are kept."""
        index = _index_labels(self.task)
        listed = parse_container(cell)
        if isinstance(listed, list):
            found = [name for name in map(read_cell, listed) if name is not None]
        elif text in index.positions or len(text) > MAX_LABEL_LIST_LENGTH:
            found = [text]
        else:
            found = _split_names(index, text)
        known = {name for name in found if name in index.positions}
        unknown = dict.fromkeys(name for name in found if name not in index.positions)
        return (*sorted(known, key=index.positions.__getitem__), *unknown)

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        if not isinstance(gold, tuple):
            return (str(gold),)
        known = _index_labels(self.task).positions
        return tuple(name for name in gold if name not in known)

    def write_choices(self) -> list[str]:
        return [
            "Decide for each of these labels whether it applies:",
            *list_labels(self.task),
            "",
            ask_for_each("label", "its name"),
        ]

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        return write_yes_no_lines([label.name for label in self.task.labels], answer)

    def build_branches(self, options: Sequence[Option]) -> tuple[Branch, ...]:
        return tuple(
            Branch(f"{label.name}: ", YES_NO, descriptions=(describe_label(label),))
            for label in self.task.labels
        )

    def find_gold_indices(self, options: Sequence[Option], gold: Value) -> list[int]:
        return [0 if label.name in gold else 1 for label in self.task.labels]

    def read_example_answer(self, row: Mapping[str, object], cell: object) -> Value | None:
        if isinstance(cell, list) and not cell:
            return ()
        return super().read_example_answer(row, cell)

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        return describe_unknown_label(self.task, invalid)

    @property
    def always_answers(self) -> bool:
        return self.spec.at_least_one

    @property
    def threshold_fit(self) -> tuple[Literal["f1", "recall"], float] | None:
        return (self.spec.fit, self.spec.recall_floor) if self.spec.fit else None

    def without_threshold_fit(self) -> Task:
        return replace(self.task, answer_spec=replace(self.spec, fit=None))

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        return list(find_unknown_labels(self.task, names))

    def select_labels(self, names: Sequence[str]) -> Task:
        task = select_labels(self.task, names, "name")
        kept = {label.name for label in task.labels}
        thresholds = {
            name: threshold for name, threshold in self.spec.thresholds.items() if name in kept
        }
        return replace(task, answer_spec=replace(self.spec, thresholds=thresholds))

    def describe_answers(self) -> str:
        return format_count(len(self.task.labels), "label")


def ask_for_each(what: str, name: str) -> str:
    """The answer format for several yes-or-no questions."""
    return f"For each {what} write {name}, a colon, and {' or '.join(YES_NO)}."


def write_yes_no_lines(names: Sequence[str], answer: Value) -> str:
    """A model turn that answers yes for the names in ``answer``; KeyError for unknown names."""
    if unknown := set(answer) - set(names):
        raise KeyError(*unknown)
    return "\n".join(f"{name}: {YES_NO[0] if name in answer else YES_NO[1]}" for name in names)


def _read_thresholds(
    reader: TaskReader, raw: Mapping[str, object] | str, names: Sequence[str]
) -> dict[str, float]:
    """Thresholds by label, from one number for all or a mapping."""
    if not isinstance(raw, str):
        for name in raw:
            if names and name not in names:
                hint = format_suggestion(name, names)
                reader.add_fault(f"{quote(name)} is not a label{hint}", *_THRESHOLDS, name)
    typed: Mapping[str, object] = dict.fromkeys(names, raw) if isinstance(raw, str) else raw
    thresholds = {name: _parse_fraction(value) for name, value in typed.items()}
    for name, threshold in thresholds.items():
        if threshold is None:
            message = f"the threshold of {quote(name)} must be a number from 0 to 1"
            reader.add_fault(message, *_THRESHOLDS, name)
            if isinstance(raw, str):
                break
    return {name: fraction for name, fraction in thresholds.items() if fraction is not None}


def _read_threshold_fit(
    reader: TaskReader, raw: Mapping[str, object], spec: MultiLabel
) -> MultiLabel:
    for key in raw:
        if key not in ("fit", "floor"):
            message = f"unknown key {quote(key)} - there are fit, floor"
            reader.add_fault(message, *_THRESHOLDS, key)
    fit, floor = raw["fit"], _parse_fraction(raw.get("floor", "0.9"))
    if fit not in ("f1", "recall"):
        message = f'"fit" is {quote(fit)} - it can be f1 or recall'
        reader.add_fault(message, *_THRESHOLDS, "fit")
    if "floor" in raw and fit == "f1":
        reader.add_fault('"floor" belongs to {fit: recall, floor: 0.95}', *_THRESHOLDS, "floor")
    if floor is None:
        reader.add_fault('"floor" must be a number from 0 to 1', *_THRESHOLDS, "floor")
    return replace(
        spec,
        fit="recall" if fit == "recall" else "f1",
        recall_floor=0.9 if floor is None else floor,
    )


def _parse_fraction(value: object) -> float | None:
    try:
        fraction = float(str(value))
    except ValueError:
        return None
    return fraction if 0 <= fraction <= 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class _LabelIndex:
    """An index of a task's labels.

    ``positions`` are in the task's order. By separator, ``spellings`` maps the result of
    `_normalize_spacing` to the name, and ``max_parts`` is the number of parts of the longest name.
    """

    positions: Mapping[str, int]
    spellings: Mapping[str, Mapping[str, str]]
    max_parts: Mapping[str, int]


@lru_cache(maxsize=8)
def _index_labels(task: Task) -> _LabelIndex:
    names = [label.name for label in task.labels]
    return _LabelIndex(
        {name: position for position, name in enumerate(names)},
        {
            separator: {_normalize_spacing(name, separator): name for name in names}
            for separator in LABEL_SEPARATORS
        },
        {
            separator: max((name.count(separator) for name in names), default=0) + 1
            for separator in LABEL_SEPARATORS
        },
    )


def _split_names(index: _LabelIndex, text: str) -> list[str]:
    """Split a text by the separator that finds most labels; names may contain separators."""
    splits = [
        _join_names(index, text.split(separator), separator)
        for separator in LABEL_SEPARATORS
        if separator in text
    ]
    return max(
        splits,
        key=lambda split: len({name for name in split if name in index.positions}),
        default=[text],
    )


def _join_names(index: _LabelIndex, parts: Sequence[str], separator: str) -> list[str]:
    """The parts, with those that form a label together joined; the longest match first."""
    joined: list[str] = []
    start = 0
    while start < len(parts):
        for end in range(min(len(parts), start + index.max_parts[separator]), start, -1):
            name = index.spellings[separator].get(
                _normalize_spacing(separator.join(parts[start:end]), separator)
            )
            if name is not None or end == start + 1:
                joined.append(name if name is not None else parts[start].strip())
                start = end
                break
    return [name for name in joined if name]


def _normalize_spacing(name: str, separator: str) -> str:
    """A name in a form that is equal for "a, b" and "a,b"."""
    return separator.join(part.strip() for part in name.split(separator))
