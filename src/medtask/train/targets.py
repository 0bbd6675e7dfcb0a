"""What lessons teach, as texts and numbers, for methods that learn a set of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.data.source import list_names
from medtask.engines.trained import EngineName, Trained
from medtask.errors import InputError, UsageError
from medtask.tasks.task import Task
from medtask.train.material import Lesson, Material, find_phi
from medtask.train.validate import FLOOR

LEARNABLE = ("label", "labels")


@dataclass(frozen=True, slots=True)
class Taught:
    """``texts`` [rows] and what is true of them: of kind "label" the places of their labels [rows],
    of kind "labels" a table of 0 and 1 [rows, labels]. ``groups``: what keeps rows together that
    must not be split, None where a row stands alone.
    """

    texts: tuple[str, ...]
    gold: NDArray[np.int64]
    groups: tuple[str | None, ...]

    def choose(self, rows: NDArray[np.int64]) -> Taught:
        """Some of the rows."""
        return Taught(
            tuple(self.texts[row] for row in rows),
            self.gold[rows],
            tuple(self.groups[row] for row in rows),
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """``labels``: the answers that have an example to learn from, in the task's order;
    ``untaught``: the labels that have none. Rows of ``validation`` whose answer is untaught are not
    in it: no model of this kind can be chosen by them.
    """

    task: Task
    labels: tuple[str, ...]
    untaught: tuple[str, ...]
    train: Taught
    validation: Taught
    notes: tuple[str, ...]

    @property
    def several(self) -> bool:
        return self.task.several

    def contract(self, engine: EngineName, base: str) -> Trained:
        """What a model is that was trained on them, its files' hashes still missing."""
        task = self.task
        return Trained(
            engine,
            "labels" if self.several else "label",
            self.labels,
            abstain=None if task.abstention in self.labels else task.abstention,
            untaught=self.untaught,
            base=base,
            task_fingerprint=task.fingerprint,
            phi=find_phi(task),
        )


def read_targets(materials: Sequence[Material], method: str) -> Targets:
    """The lessons of the one task that a method of this name can learn.

    UsageError for several tasks and for kinds without a fixed set of labels; InputError where there
    is nothing to tell apart.
    """
    if len(materials) != 1:
        raise UsageError(
            f"{len(materials)} tasks were given, and --method {method} learns one",
            fix="train a model for each, or choose --method lora",
        )
    material = materials[0]
    task = material.task
    if task.kind not in LEARNABLE:
        raise UsageError(
            f"{task.name} is a task of kind {task.kind}, and --method {method} learns a fixed "
            "set of labels",
            fix="choose --method lora, which trains a language model on any kind of question",
        )
    answers = [
        [lesson for lesson in material.train if name in _list_answers(lesson)]
        for name in task.outcomes
    ]
    counts = dict(zip(task.outcomes, map(len, answers), strict=True))
    labels = tuple(name for name, count in counts.items() if count)
    untaught = tuple(
        name for name, count in counts.items() if not count and name != task.abstention
    )
    _check_contrast(task, labels, counts, len(material.train))
    known = [
        lesson
        for lesson in material.validation
        if task.several or _list_answers(lesson)[0] in labels
    ]
    notes = []
    if untaught:
        notes.append(
            f"no example to learn from: {list_names(untaught)}. The model never gives "
            f"{'it' if len(untaught) == 1 else 'them'}."
        )
    return Targets(
        task,
        labels,
        untaught,
        _teach(task, labels, material.train),
        _teach(task, labels, known),
        tuple(notes),
    )


def _check_contrast(task: Task, labels: Sequence[str], counts: dict[str, int], rows: int) -> None:
    if not labels or (len(labels) < 2 and not task.several):
        held = f"only {list_names(labels)} stands" if labels else "no label stands"
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
            f"every row to learn from has {list_names(always)}: what a row without would look "
            "like cannot be learnt",
            fix="add rows without, or take the label out of the task",
        )


def _list_answers(lesson: Lesson) -> tuple[str, ...]:
    gold = lesson.record.gold
    return tuple(map(str, gold)) if isinstance(gold, tuple) else (str(gold),)


def _teach(task: Task, labels: Sequence[str], lessons: Sequence[Lesson]) -> Taught:
    places = {name: place for place, name in enumerate(labels)}
    if task.several:
        gold = np.zeros((len(lessons), len(labels)), dtype=np.int64)
        for row, lesson in enumerate(lessons):
            gold[row, [places[name] for name in _list_answers(lesson) if name in places]] = 1
    else:
        gold = np.array([places[_list_answers(lesson)[0]] for lesson in lessons], dtype=np.int64)
    return Taught(
        tuple(lesson.prompt.text for lesson in lessons),
        gold,
        tuple(lesson.record.group for lesson in lessons),
    )


def judge(
    targets: Targets, gold: NDArray[np.int64], shares: NDArray[np.float64]
) -> tuple[float, float]:
    """Mean loss of a row in nats (of several labels the mean over labels), and the share of rows,
    or of all yes-or-no decisions, that are right.

    ``shares``: probabilities [rows, labels]; below FLOOR they count as that.
    """
    given = (
        np.where(gold == 1, shares, 1 - shares)
        if targets.several
        else shares[np.arange(len(gold)), gold]
    )
    right = (shares >= 0.5) == (gold == 1) if targets.several else shares.argmax(axis=1) == gold
    return float(-np.log(np.maximum(given, FLOOR)).mean()), float(right.mean())
