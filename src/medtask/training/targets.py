"""What lessons teach, as texts and numbers, for methods that learn a set of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote_names
from medtask.engines.model_metadata import EngineName, ModelMetadata
from medtask.errors import InputError, UsageError
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingData, TrainingExample, determine_phi
from medtask.training.validation_metrics import MIN_PROBABILITY

SUPPORTED_KINDS = ("label", "labels")


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """``texts`` [rows] and what is true of them: of kind "label" the places of their labels [rows],
    of kind "labels" a table of 0 and 1 [rows, labels]. ``groups``: what keeps rows together that
    must not be split, None where a row stands alone.
    """

    texts: tuple[str, ...]
    gold: NDArray[np.int64]
    groups: tuple[str | None, ...]

    def select_rows(self, rows: NDArray[np.int64]) -> LabelledTexts:
        """Some of the rows."""
        return LabelledTexts(
            tuple(self.texts[row] for row in rows),
            self.gold[rows],
            tuple(self.groups[row] for row in rows),
        )


@dataclass(frozen=True, slots=True)
class LabelTargets:
    """``labels``: the answers that have an example to learn from, in the task's order;
    ``untaught``: the labels that have none. Rows of ``validation`` whose answer is untaught are not
    in it: no model of this kind can be chosen by them.
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
        """What a model is that was trained on them, its files' hashes still missing."""
        task = self.task
        return ModelMetadata(
            engine,
            "labels" if self.several else "label",
            self.labels,
            abstain=None if task.abstain_name in self.labels else task.abstain_name,
            untaught=self.untaught,
            base=base,
            task_fingerprint=task.fingerprint,
            phi=determine_phi(task),
        )


def build_label_targets(training_data: Sequence[TrainingData], method: str) -> LabelTargets:
    """The lessons of the one task that a method of this name can learn.

    UsageError for several tasks and for kinds without a fixed set of labels; InputError where there
    is nothing to tell apart.
    """
    if len(training_data) != 1:
        raise UsageError(
            f"{len(training_data)} tasks were given, and --method {method} learns one",
            fix="train a model for each, or choose --method lora",
        )
    data = training_data[0]
    task = data.task
    if task.kind not in SUPPORTED_KINDS:
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
            f"no example to learn from: {quote_names(untaught)}. The model never gives "
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
        held = f"only {quote_names(labels)} stands" if labels else "no label stands"
        raise InputError(
            f"{held} in the gold of the {rows:,} rows to learn from: "
            "there is nothing to tell apart",
            fix="add rows with gold of at least two labels"
            if not task.several
            else "add rows with gold",
        )
    always = [name for name in labels if counts[name] == rows]
    if task.several and always:
        raise InputError(
            f"every row to learn from has {quote_names(always)}: what a row without would look "
            "like cannot be learnt",
            fix="add rows without, or take the label out of the task",
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
        tuple(example.record.group for example in examples),
    )


def compute_loss_and_accuracy(
    targets: LabelTargets, gold: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[float, float]:
    """Mean loss of a row in nats (of several labels the mean over labels), and the share of rows,
    or of all yes-or-no decisions, that are right.

    ``probabilities``: probabilities [rows, labels]; below FLOOR they count as that.
    """
    given = (
        np.where(gold == 1, probabilities, 1 - probabilities)
        if targets.several
        else probabilities[np.arange(len(gold)), gold]
    )
    right = (
        (probabilities >= 0.5) == (gold == 1)
        if targets.several
        else probabilities.argmax(axis=1) == gold
    )
    return float(-np.log(np.maximum(given, MIN_PROBABILITY)).mean()), float(right.mean())
