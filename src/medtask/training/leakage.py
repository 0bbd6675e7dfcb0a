"""Finds texts and groups shared by validation and training rows, which bias metrics upwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.near_duplicates import (
    NEAR_DUPLICATE_SIMILARITY,
    MinHashSketch,
    find_cross_split_duplicates,
    sketch_texts,
)
from medtask.tasks.row_fingerprints import hash_question
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import normalize_record_group
from medtask.training.training_example import TrainingExample, format_question

_WORST = 10


@dataclass(frozen=True, slots=True, eq=False)
class QuestionIndex:
    """Examples prepared for comparison, in an order that is independent of the order of rows.

    Attributes:
        positions: The original index of each example.
        keys: Equal for equal questions; see `hash_question`.
    """

    examples: tuple[TrainingExample, ...]
    positions: NDArray[np.int64]
    keys: tuple[bytes, ...]
    sketches: MinHashSketch


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two similar rows, one of each part; ``likeness`` is their similarity in [0, 1]."""

    train_row: int
    validation_row: int
    likeness: float


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """Overlap of validation rows with training rows.

    Attributes:
        validation: The number of validation rows.
        equal: Validation rows with the same question as a training row.
        near: Further validation rows with a near duplicate among training rows.
        groups: Groups in both parts.
        group_rows: Validation rows of these groups.
        worst: The most similar pairs.
        bound: The similarity from which two texts are near duplicates.
    """

    validation: int
    equal: int = 0
    near: int = 0
    groups: int = 0
    group_rows: int = 0
    worst: tuple[NearDuplicate, ...] = ()
    bound: float = NEAR_DUPLICATE_SIMILARITY

    @property
    def share(self) -> float:
        """The share of validation rows with an equal or nearly equal training row."""
        return (self.equal + self.near) / self.validation if self.validation else 0.0

    def describe(self) -> list[str]:
        """A line for each kind of leakage, or one line if there is none."""
        of = f"of {self.validation:,} validation row{'s' * (self.validation != 1)}"
        lines = []
        if self.equal:
            lines.append(f"{self.equal:,} {of} ask the same as a training row")
        if self.near:
            more = "more " if self.equal else ""
            lines.append(
                f"{self.near:,} {more}{of} nearly repeat a training row (similarity "
                f"{self.bound:g} or more)"
            )
        if self.worst:
            pairs = ", ".join(
                (
                    f"{near_duplicate.validation_row:,} and {near_duplicate.train_row:,} "
                    f"({near_duplicate.likeness:.2f})"
                )
                for near_duplicate in self.worst[:3]
            )
            lines.append(
                f"the most similar rows are {pairs}, validation first: remove them from one part"
            )
        if self.groups:
            lines.append(
                f"{self.groups:,} group{'s are' if self.groups > 1 else ' is'} in both parts, "
                f"with {self.group_rows:,} {of}"
            )
        return lines or [
            f"none: no group and no text (similarity {self.bound:g} or more) is in both parts"
        ]

    def to_json(self) -> dict[str, Any]:
        pairs = [
            asdict(replace(near_duplicate, likeness=round(near_duplicate.likeness, 4)))
            for near_duplicate in self.worst
        ]
        counts = {
            name: getattr(self, name)
            for name in ("validation", "equal", "near", "groups", "group_rows", "bound")
        }
        return {**counts, "share": round(self.share, 6), "worst": pairs}


def index_questions(task: Task, examples: Sequence[TrainingExample]) -> QuestionIndex:
    """Prepare examples for comparison, in seconds for 100,000 short rows."""
    keys = [hash_question(task, example.record, example.prompt) for example in examples]
    order = sorted(
        range(len(examples)),
        key=lambda index: (keys[index], str(examples[index].record.gold), index),
    )
    chosen = tuple(examples[index] for index in order)
    texts = sketch_texts(
        [format_question(task, example.record, example.prompt) for example in chosen]
    )
    return QuestionIndex(
        chosen, np.array(order, dtype=np.int64), tuple(keys[index] for index in order), texts
    )


def find_leakage(question_index: QuestionIndex, is_validation: NDArray[np.bool_]) -> LeakageReport:
    """The overlap of validation questions, given by a mask [questions], with the others."""
    validation_flags = is_validation.tolist()
    train_keys = {
        key for key, aside in zip(question_index.keys, validation_flags, strict=True) if not aside
    }
    equal = np.array(
        [
            aside and key in train_keys
            for key, aside in zip(question_index.keys, validation_flags, strict=True)
        ],
        dtype=bool,
    )
    near_duplicates = find_cross_split_duplicates(question_index.sketches, is_validation)
    aside = np.where(
        is_validation[near_duplicates.first], near_duplicates.first, near_duplicates.second
    )
    train_indices = np.where(
        is_validation[near_duplicates.first], near_duplicates.second, near_duplicates.first
    )
    near = np.setdiff1d(aside, np.flatnonzero(equal))
    rows = [example.row for example in question_index.examples]
    listed = zip(
        train_indices[:_WORST].tolist(),
        aside[:_WORST].tolist(),
        near_duplicates.similarity[:_WORST].tolist(),
        strict=True,
    )
    worst = tuple(
        NearDuplicate(rows[one], rows[other], likeness) for one, other, likeness in listed
    )
    sides: tuple[list[str], list[str]] = ([], [])
    for example, apart in zip(question_index.examples, validation_flags, strict=True):
        if (group := normalize_record_group(example.record)) is not None:
            sides[apart].append(group)
    both = set(sides[0]) & set(sides[1])
    return LeakageReport(
        sum(validation_flags),
        int(equal.sum()),
        len(near),
        len(both),
        sum(group in both for group in sides[1]),
        worst,
    )
