"""What the label doctor wants of answers, gathered row by row: memory grows with the different
pairs of gold and answer alone.
"""

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
    """Answers to one task of the kinds ``label`` or ``labels``, counted.

    ``labels``: what there is to choose from, the abstention included, whose name ``abstain``
    repeats. ``pairs``: rows by gold and answer, where gold is known; an answer of None is a row
    without one. ``answers_by_label``: rows whose answer has the label. ``rows_with_confidence``:
    answers with a confidence, ``low_confidence`` of them below ``confidence_threshold``.
    ``unknown_gold``: rows whose gold is no label of the set; they are in no pair.
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
        """One row. ``answer``: its labels, none of which may apply; None where the row has no
        answer. ``gold``: likewise; None where it is not known.
        """
        self.rows += 1
        names = None if answer is None else frozenset(answer) & self._label_set
        if names is not None:
            self.answered += 1
            self.answers_by_label.update(names)
            if confidence is not None and confidence == confidence:  # not NaN
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
    """A tally's pairs as arrays: ``gold`` and ``answer`` [cells, labels] say which labels each side
    has, ``answered`` [cells] whether there is an answer, ``rows`` [cells] how many rows are such a
    pair.
    """

    gold: Flags
    answer: Flags
    answered: Flags
    rows: IntArray

    @property
    def n(self) -> int:
        return int(self.rows.sum())


def build_pair_cells(pair_counts: GoldAnswerCounts) -> PairCells:
    """The pairs of a tally, in an order that does not depend on that of the rows."""
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
