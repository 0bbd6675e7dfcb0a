"""Counts of answers by gold and answer; memory grows with the distinct pairs only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.intervals import IntArray

Flags = NDArray[np.bool_]
LabelNameSet = frozenset[str]


@dataclass(slots=True)
class GoldAnswerCounts:
    """Counted answers to one task with labels.

    Attributes:
        labels: All labels, with the abstention.
        abstain: Name of the abstention.
        confidence_threshold: Lower confidences count as low.
        rows: Number of rows.
        answered: Number of answers.
        rows_with_confidence: Number of answers with a confidence.
        low_confidence: Number of those that are low.
        unknown_gold: Number of rows with gold outside the set; they are not in ``pairs``.
        pairs: Rows by gold and answer (None: no answer).
        answers_by_label: Rows whose answer has the label.
    """

    labels: tuple[str, ...]
    abstain: str | None = None
    confidence_threshold: float = 0.5
    rows: int = 0
    answered: int = 0
    rows_with_confidence: int = 0
    low_confidence: int = 0
    unknown_gold: int = 0
    pairs: Counter[tuple[LabelNameSet, LabelNameSet | None]] = field(default_factory=Counter)
    answers_by_label: Counter[str] = field(default_factory=Counter)
    _label_set: LabelNameSet = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._label_set = frozenset(self.labels)

    def add(
        self, answer: Collection[str] | None, gold: Collection[str] | None, confidence: float | None
    ) -> None:
        """Adds one row; ``answer`` is None for no answer, ``gold`` for unknown gold."""
        self.rows += 1
        names = None if answer is None else frozenset(answer) & self._label_set
        if names is not None:
            self.answered += 1
            self.answers_by_label.update(names)
            if confidence is not None and confidence == confidence:  # False for NaN
                self.rows_with_confidence += 1
                self.low_confidence += confidence < self.confidence_threshold
        if gold is None:
            return
        truth = frozenset(gold)
        if truth <= self._label_set:
            self.pairs[truth, names] += 1
        else:
            self.unknown_gold += 1

    @property
    def gold_rows(self) -> int:
        return self.pairs.total()


@dataclass(frozen=True, slots=True)
class PairCells:
    """Pairs as arrays.

    Gold and answer have the shape [cells, labels], ``answered`` and ``rows`` [cells].
    """

    gold: Flags
    answer: Flags
    answered: Flags
    rows: IntArray

    @property
    def n(self) -> int:
        return int(self.rows.sum())


def build_pair_cells(pair_counts: GoldAnswerCounts) -> PairCells:
    """The pairs in an order that is independent of the order of rows."""
    listed = sorted(
        pair_counts.pairs.items(),
        key=lambda item: (sorted(item[0][0]), item[0][1] is None, sorted(item[0][1] or ())),
    )
    return PairCells(
        gold=_build_flags([gold for (gold, _), _ in listed], pair_counts.labels),
        answer=_build_flags(
            [answer or frozenset() for (_, answer), _ in listed], pair_counts.labels
        ),
        answered=np.array([answer is not None for (_, answer), _ in listed], dtype=np.bool_),
        rows=np.array([rows for _, rows in listed], dtype=np.int64),
    )


def _build_flags(sets: Sequence[LabelNameSet], labels: Sequence[str]) -> Flags:
    flags = np.zeros((len(sets), len(labels)), dtype=np.bool_)
    places = {label: place for place, label in enumerate(labels)}
    for row, names in enumerate(sets):
        flags[row, [places[name] for name in names]] = True
    return flags
