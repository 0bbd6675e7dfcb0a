"""Kind ``labels``: any number of the task's labels, each decided independently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

from medtask.display import format_count, format_suggestion, quote
from medtask.names import MatchLevel
from medtask.records import Branch, Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tables.missing import MissingText
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.config import BOOLEAN, COUNT, ConfigModel, NullAsNone
from medtask.tasks.key_reference import KeyDescription
from medtask.tasks.kinds.base import TaskKind, WrittenName
from medtask.tasks.kinds.label import (
    LABEL_KEYS,
    describe_label,
    describe_unknown_label,
    find_unknown_labels,
    get_label_names,
    list_choices,
    list_labels,
    match_label,
    select_labels,
)
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.task import MultiLabel, Task

YES_NO = ("yes", "no")
LABEL_SEPARATORS = (";", "|", ",", "\n")
MAX_LABEL_LIST_LENGTH = 20_000  # characters: a longer text is not split into labels
_THRESHOLDS = ("answer", "thresholds")


class MultiLabelConfig(ConfigModel):
    kind: Any
    labels: Any
    at_least_one: Annotated[bool, BOOLEAN] = False
    at_most: Annotated[int | None, COUNT, NullAsNone] = None
    thresholds: Any = None
    blank_gold: Literal["unlabelled", "none"] = "unlabelled"


_KEYS: Mapping[str, KeyDescription] = {
    "labels": LABEL_KEYS["labels"],
    "at_least_one": KeyDescription(
        "Whether every row gets at least one label.", "at_least_one: true"
    ),
    "at_most": KeyDescription("The maximum number of labels of a row.", "at_most: 3"),
    "thresholds": KeyDescription(
        "The probability from which a label applies: a number, one for each label, "
        "`{fit: f1}`, or `{fit: recall, floor: 0.95}`. Default: 0.5.",
        "thresholds: {fit: f1}",
        {"type": ["number", "object"]},
    ),
    "blank_gold": KeyDescription(
        "Whether a blank cell of gold says nothing, or that no label applies.",
        "blank_gold: none",
    ),
}


class LabelsKind(TaskKind[MultiLabel]):
    """One branch for each label, whose candidates are yes and no."""

    config_type = MultiLabelConfig
    spec_type = MultiLabel
    key_descriptions = _KEYS

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: MultiLabelConfig, label_names: Sequence[str]
    ) -> MultiLabel:
        spec = MultiLabel(config.at_least_one, config.at_most, blank_gold=config.blank_gold)
        raw = config.thresholds
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

    def read_gold(self, row: Mapping[str, object], cell: object) -> Value | None:
        """See `TaskKind.read_gold`; a blank cell can say that no label applies."""
        is_blank = read_cell(cell) is None and not isinstance(cell, MissingText)
        if is_blank and self.spec.blank_gold == "none":
            return ()
        return super().read_gold(row, cell)

    @property
    def blank_gold(self) -> str:
        return "no label" if self.spec.blank_gold == "none" else "unlabelled"

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """Names from a list, a list as text, or a text with separators; unknown names are kept."""
        found = self.match_names(row, cell)
        known = {written.match.name for written in found}
        unknown = dict.fromkeys(written.text for written in found if written.match.name is None)
        return (*(label.name for label in self.task.labels if label.name in known), *unknown)

    def match_names(self, row: Mapping[str, object], cell: object) -> tuple[WrittenName, ...]:
        listed = read_annotations(cell)
        if listed is not None:
            texts = [text for text in map(read_cell, listed) if text is not None]
            return tuple(match_label(self.task, text) for text in texts)
        text = read_cell(cell)
        if text is None:
            return ()
        whole = match_label(self.task, text)
        # "1,0" is the label "1" of a table with decimal commas, or the labels "1" and "0".
        is_number = "," in text and whole.match.level is MatchLevel.VALUE
        if (whole.match.name is not None and not is_number) or len(text) > MAX_LABEL_LIST_LENGTH:
            return (whole,)
        split = _split_names(self.task, text)
        is_list = all(written.match.name is not None for written in split)
        return split if is_list or whole.match.name is None else (whole,)

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        if not isinstance(gold, tuple):
            return (str(gold),)
        known = get_label_names(self.task)
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
        return _build_branches(self.task)

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

    @property
    def thresholds(self) -> Mapping[str, float]:
        return self.spec.thresholds

    def set_default_thresholds(self, thresholds: Mapping[str, float]) -> Task:
        merged = {**thresholds, **self.spec.thresholds}
        return replace(self.task, answer_spec=replace(self.spec, thresholds=merged))

    def with_threshold_fit(self) -> Task | None:
        if self.spec.thresholds:
            return None
        return replace(self.task, answer_spec=replace(self.spec, fit=self.spec.fit or "f1"))

    def without_threshold_fit(self) -> Task:
        return replace(self.task, answer_spec=replace(self.spec, fit=None))

    def find_cascade_conflict(self) -> str | None:
        return (
            "thresholds are fitted on the model's probabilities of all rows, and the rows of a "
            "cascade's student do not have them"
            if self.spec.fit
            else None
        )

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        return list(find_unknown_labels(self.task, names))

    def select_labels(self, names: Sequence[str]) -> Task:
        task = select_labels(self.task, names, "name")
        kept = {label.name for label in task.labels}
        thresholds = {
            name: threshold for name, threshold in self.spec.thresholds.items() if name in kept
        }
        return replace(task, answer_spec=replace(self.spec, thresholds=thresholds))

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        return AnswerForm(
            "several",
            list_choices(self.task),
            at_least_one=self.spec.at_least_one,
            at_most=self.spec.at_most,
        )

    def describe_answers(self) -> str:
        return format_count(len(self.task.labels), "label")


@lru_cache(maxsize=8)  # the same for all rows
def _build_branches(task: Task) -> tuple[Branch, ...]:
    return tuple(
        Branch(f"{label.name}: ", YES_NO, descriptions=(describe_label(label),))
        for label in task.labels
    )


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


def _split_names(task: Task, text: str) -> tuple[WrittenName, ...]:
    """Split a text by the separator that finds most labels; names may contain separators."""
    splits = [
        _join_names(task, text.split(separator), separator)
        for separator in LABEL_SEPARATORS
        if separator in text
    ]
    return max(
        splits,
        key=lambda split: len({written.match.name for written in split} - {None}),
        default=(match_label(task, text),),
    )


def _join_names(task: Task, parts: Sequence[str], separator: str) -> tuple[WrittenName, ...]:
    """The parts, with those that form a label together joined; the longest match first."""
    max_parts = max((label.name.count(separator) for label in task.labels), default=0) + 1
    joined: list[WrittenName] = []
    start = 0
    while start < len(parts):
        for end in range(min(len(parts), start + max_parts), start, -1):
            written = match_label(task, separator.join(parts[start:end]).strip())
            if written.match.name is not None or end == start + 1:
                joined.append(written)
                start = end
                break
    return tuple(written for written in joined if written.text)
