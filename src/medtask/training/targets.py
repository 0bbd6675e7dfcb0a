"""Converts training rows to texts and label indices, for methods with a fixed set of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote_names
from medtask.engines.metadata_schema import EngineName
from medtask.engines.model_metadata import ModelMetadata
from medtask.errors import InputError, UsageError
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import normalize_record_group
from medtask.training.training_data import TrainingData, TrainingExample, determine_model_phi


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their labels.

    Attributes:
        texts: [rows].
        gold: The index of each row's label [rows]; of several labels a table of 0 and 1
            [rows, labels].
        groups: Rows of the same group must not be split; None for a row without a group.
    """

    texts: tuple[str, ...]
    gold: NDArray[np.int64]
    groups: tuple[str | None, ...]

    def select_rows(self, rows: NDArray[np.int64]) -> LabelledTexts:
        """A selection of the rows."""
        return LabelledTexts(
            tuple(self.texts[row] for row in rows),
            self.gold[rows],
            tuple(self.groups[row] for row in rows),
        )


@dataclass(frozen=True, slots=True)
class LabelTargets:
    """The training targets of a method with a fixed set of labels.

    Attributes:
        labels: The outcomes that have a training row, in the task's order.
        untaught: The labels without one. Validation rows with such a label are left out.
    """

    task: Task
    labels: tuple[str, ...]
    untaught: tuple[str, ...]
    train: LabelledTexts
    validation: LabelledTexts
    notes: tuple[str, ...]

    @property
    def several(self) -> bool:
        return self.task.several

    def describe_model(self, engine: EngineName, base: str) -> ModelMetadata:
        """The metadata of a model trained on these targets, without hashes."""
        task = self.task
        return ModelMetadata(
            engine,
            task.kind,
            self.labels,
            abstain=None if task.abstain_name in self.labels else task.abstain_name,
            untaught=self.untaught,
            base=base,
            task_fingerprint=task.fingerprint,
            phi=determine_model_phi((task,), (base,)),
        )


def build_label_targets(training_data: Sequence[TrainingData], method: str) -> LabelTargets:
    """The targets of the single task that such a method can be trained on.

    Raises:
        UsageError: There are several tasks, or the kind has no fixed set of labels.
        InputError: All rows have the same label.
    """
    if len(training_data) != 1:
        raise UsageError(
            f"{len(training_data)} tasks were given, and --method {method} learns one",
            fix="train a model for each, or choose --method lora",
        )
    data = training_data[0]
    task = data.task
    if not task.kind_spec.has_labels:
        raise UsageError(
            f"{task.name} is a task of kind {task.kind}, and --method {method} learns a fixed "
            "set of labels",
            fix="choose --method lora, which trains a language model on any kind of question",
        )
    answers = [
        [example for example in data.train if name in _list_gold_names(example)]
        for name in task.outcomes
    ]
    counts = dict(zip(task.outcomes, map(len, answers), strict=True))
    labels = tuple(name for name, count in counts.items() if count)
    untaught = tuple(
        name for name, count in counts.items() if not count and name != task.abstain_name
    )
    _check_label_variety(task, labels, counts, len(data.train))
    validation_examples = [
        example
        for example in data.validation
        if task.several or _list_gold_names(example)[0] in labels
    ]
    notes = []
    if untaught:
        notes.append(
            f"no training row: {quote_names(untaught)}. The model never answers "
            f"{'it' if len(untaught) == 1 else 'them'}."
        )
    return LabelTargets(
        task,
        labels,
        untaught,
        _encode_gold(task, labels, data.train),
        _encode_gold(task, labels, validation_examples),
        tuple(notes),
    )


def _check_label_variety(
    task: Task, labels: Sequence[str], counts: dict[str, int], rows: int
) -> None:
    if not labels or (len(labels) < 2 and not task.several):
        found = f"only {quote_names(labels)}" if labels else "no label"
        raise InputError(
            f"the gold of the {rows:,} training rows has {found}: "
            "there is nothing to learn to distinguish",
            fix="add rows with gold of at least two labels"
            if not task.several
            else "add rows with gold",
        )
    always = [name for name in labels if counts[name] == rows]
    if task.several and always:
        raise InputError(
            f"every training row has {quote_names(always)}: rows without it cannot be recognised",
            fix="add rows without it, or remove the label from the task",
        )


def _list_gold_names(example: TrainingExample) -> tuple[str, ...]:
    gold = example.record.gold
    return tuple(map(str, gold)) if isinstance(gold, tuple) else (str(gold),)


def _encode_gold(
    task: Task, labels: Sequence[str], examples: Sequence[TrainingExample]
) -> LabelledTexts:
    indices = {name: index for index, name in enumerate(labels)}
    if task.several:
        gold = np.zeros((len(examples), len(labels)), dtype=np.int64)
        for row, example in enumerate(examples):
            gold[row, [indices[name] for name in _list_gold_names(example) if name in indices]] = 1
    else:
        gold = np.array(
            [indices[_list_gold_names(example)[0]] for example in examples], dtype=np.int64
        )
    return LabelledTexts(
        tuple(example.prompt.text for example in examples),
        gold,
        tuple(normalize_record_group(example.record) for example in examples),
    )
