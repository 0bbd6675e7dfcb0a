"""Kind ``label``: exactly one of the task's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from medtask.display import format_count, format_suggestion, quote
from medtask.names import Names
from medtask.records import Branch, Description, Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.answer_form import AnswerChoice, AnswerForm
from medtask.tasks.config import ConfigModel
from medtask.tasks.key_reference import NAME, KeyDescription, Schema
from medtask.tasks.kinds.base import TaskKind, WrittenName
from medtask.tasks.label_definitions import assign_verbalizers
from medtask.tasks.reader import TaskReader
from medtask.tasks.task import Label, SingleLabel, Task

ABSTAIN_DEFINITION = "if the text does not say enough to decide"


class SingleLabelConfig(ConfigModel):
    kind: Any
    labels: Any
    abstain: Any = None
    readout: Literal["name", "code"] = "name"


_DEFINITION: Schema = {"type": ["string", "number", "boolean", "null"]}
LABEL_KEYS: Mapping[str, KeyDescription] = {
    "labels": KeyDescription(
        "The allowed answers: names with definitions, or a list of names.",
        "labels: {curative: removes the tumour with intent to cure}",
        {
            "anyOf": [
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": _DEFINITION,
                },
                {"type": "array", "items": NAME, "minItems": 1},
            ]
        },
    ),
    "abstain": KeyDescription(
        "An answer that leaves the row without a value: a name, or a name with its definition.",
        "abstain: not enough information",
        {
            "anyOf": [
                NAME,
                {"type": "object", "maxProperties": 1, "additionalProperties": _DEFINITION},
            ]
        },
    ),
    "readout": KeyDescription(
        "Whether the model chooses among the names of the labels or among short codes.",
        "readout: code",
    ),
}


class LabelKind(TaskKind[SingleLabel]):
    """One branch, whose candidates are the labels."""

    config_type = SingleLabelConfig
    spec_type = SingleLabel
    key_descriptions = LABEL_KEYS

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: SingleLabelConfig, label_names: Sequence[str]
    ) -> SingleLabel:
        return SingleLabel(config.readout)

    @classmethod
    def get_readout(cls, spec: SingleLabel) -> Literal["name", "code"]:
        return spec.readout

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """The label that the text stands for; the text if there is none."""
        names = [written.match.name for written in self.match_names(row, cell)]
        return names[0] if len(names) == 1 and names[0] is not None else text

    def read_gold(self, row: Mapping[str, object], cell: object) -> Value | None:
        """See `TaskKind.read_gold`; an annotation without a label is missing."""
        if type(cell) is str and cell in get_label_names(self.task):
            return cell  # most cells: they need not be parsed
        return None if read_annotations(cell) == [] else super().read_gold(row, cell)

    def match_names(self, row: Mapping[str, object], cell: object) -> tuple[WrittenName, ...]:
        text = read_cell(cell)
        if text is None or text in get_label_names(self.task):
            return () if text is None else (match_label(self.task, text),)
        annotations = read_annotations(cell)
        texts = [text] if annotations is None else map(read_cell, annotations)
        return tuple(match_label(self.task, text) for text in texts if text is not None)

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        names = get_label_names(self.task)
        return () if not names.names or gold in names else (str(gold),)

    def write_choices(self) -> list[str]:
        noun = "code" if self.spec.readout == "code" else "label"
        return [
            "Choose exactly one of these labels:",
            *list_labels(self.task, coded=self.spec.readout == "code"),
            "",
            f"Answer with the {noun} alone.",
        ]

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        return {label.name: label.verbalizer for label in self.task.candidates}[str(answer)]

    def build_branches(self, options: Sequence[Option]) -> tuple[Branch, ...]:
        return (_build_branch(self.task),)

    def find_gold_indices(self, options: Sequence[Option], gold: Value) -> list[int]:
        return [[label.name for label in self.task.candidates].index(str(gold))]

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        return describe_unknown_label(self.task, invalid)

    def find_cascade_conflict(self) -> str | None:
        return None

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        return list(find_unknown_labels(self.task, names))

    def select_labels(self, names: Sequence[str]) -> Task:
        return select_labels(self.task, names, self.spec.readout)

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        return AnswerForm("one", list_choices(self.task))

    def describe_answers(self) -> str:
        return format_count(len(self.task.labels), "label")


@lru_cache(maxsize=8)  # the same for all rows
def _build_branch(task: Task) -> Branch:
    verbalizers = tuple(label.verbalizer for label in task.candidates)
    return Branch("", verbalizers, descriptions=tuple(map(describe_label, task.candidates)))


@lru_cache(maxsize=8)
def get_label_names(task: Task) -> Names:
    """The names of a task's labels and abstention, for look-ups."""
    return Names(label.name for label in task.candidates)


def match_label(task: Task, text: str) -> WrittenName:
    """The label or abstention that a text stands for."""
    return WrittenName(text, get_label_names(task).match(text))


def list_choices(task: Task) -> tuple[AnswerChoice, ...]:
    """The labels and the abstention as a person chooses among them."""
    shown = [AnswerChoice(label.name, label.name, label.definition) for label in task.labels]
    if task.abstain:
        definition = task.abstain.definition or ABSTAIN_DEFINITION
        shown.append(AnswerChoice(task.abstain.name, task.abstain.name, definition))
    return tuple(shown)


def list_labels(task: Task, *, coded: bool = False) -> list[str]:
    """The lines of a prompt that name the labels, with their definitions and codes."""
    shown = list(task.labels)
    if task.abstain:
        definition = task.abstain.definition or ABSTAIN_DEFINITION
        shown.append(replace(task.abstain, definition=definition))
    return [
        (f"{label.verbalizer} = {label.name}" if coded else f"- {label.name}")
        + (f": {label.definition}" if label.definition else "")
        for label in shown
    ]


def describe_label(label: Label) -> Description:
    """The description of a label for engines that do not read chat."""
    return Description(label.name, label.definition)


def describe_unknown_label(task: Task, name: str) -> str:
    """The fault of an example whose answer is not a label."""
    suggestion = format_suggestion(name, [label.name for label in task.candidates])
    return f"answers {quote(name)}, which is not a label{suggestion}"


def find_unknown_labels(task: Task, names: Sequence[str]) -> Iterator[str]:
    """The faults of names under ``answer_in`` that are not labels."""
    known = [label.name for label in task.labels]
    for name in names:
        if name not in known:
            hint = (
                ' - rows that abstained are asked by "status: abstained"'
                if name == task.abstain_name
                else format_suggestion(name, known)
            )
            yield f"answer_in names {quote(name)}, which is not a label{hint}"


def select_labels(task: Task, names: Sequence[str], readout: Literal["name", "code"]) -> Task:
    """The task with only the labels of these names, and codes assigned to them."""
    kept = [label for label in task.labels if label.name in names]
    labels, abstain = assign_verbalizers(kept, task.abstain, readout)
    return replace(task, labels=labels, abstain=abstain)
