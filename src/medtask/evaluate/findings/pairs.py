"""What the label doctor wants of answers, gathered row by row: memory grows with the different
pairs of gold and answer alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medtask.evaluate.intervals import Counts

Flags = NDArray[np.bool_]
Names = frozenset[str]


@dataclass(slots=True)
class PairCounts:
    """Answers to one task of the kinds ``label`` or ``labels``, counted.

    ``labels``: what there is to choose from, the abstention included, whose name ``abstain``
    repeats. ``pairs``: rows by gold and answer, where gold is known; an answer of None is a row
    without one. ``given``: rows whose answer has the label. ``rated``: answers with a confidence,
    ``unsure`` of them below ``unsure_below``. ``strange_gold``: rows whose gold is no label of the
    set; they are in no pair.
    """

    labels: tuple[str, ...]
    abstain: str | None = None
    unsure_below: float = 0.5
    rows: int = 0
    answered: int = 0
    rated: int = 0
    unsure: int = 0
    strange_gold: int = 0
    pairs: Counter[tuple[Names, Names | None]] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    _known: Names = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = frozenset(self.labels)

    def add(
        self, answer: Collection[str] | None, gold: Collection[str] | None, confidence: float | None
    ) -> None:
        """One row. ``answer``: its labels, none of which may apply; None where the row has no
        answer. ``gold``: likewise; None where it is not known.
        """
        self.rows += 1
        names = None if answer is None else frozenset(answer) & self._known
        if names is not None:
            self.answered += 1
            self.given.update(names)
            if confidence is not None and confidence == confidence:  # not NaN
                self.rated += 1
                self.unsure += confidence < self.unsure_below
        if gold is None:
            return
        truth = frozenset(gold)
        if truth <= self._known:
            self.pairs[truth, names] += 1
        else:
            self.strange_gold += 1

    @property
    def gold_rows(self) -> int:
        return self.pairs.total()


@dataclass(frozen=True, slots=True)
class Cells:
    """A tally's pairs as arrays: ``gold`` and ``answer`` [cells, labels] say which labels each side
    has, ``answered`` [cells] whether there is an answer, ``rows`` [cells] how many rows are such a
    pair.
    """

    gold: Flags
    answer: Flags
    answered: Flags
    rows: Counts

    @property
    def n(self) -> int:
        return int(self.rows.sum())


def tabulate(tally: PairCounts) -> Cells:
    """The pairs of a tally, in an order that does not depend on that of the rows."""
    listed = sorted(
        tally.pairs.items(),
        key=lambda item: (sorted(item[0][0]), item[0][1] is None, sorted(item[0][1] or ())),
    )
    return Cells(
        gold=_flag([gold for (gold, _), _ in listed], tally.labels),
        answer=_flag([answer or frozenset() for (_, answer), _ in listed], tally.labels),
        answered=np.array([answer is not None for (_, answer), _ in listed], dtype=np.bool_),
        rows=np.array([rows for _, rows in listed], dtype=np.int64),
    )


def _flag(sets: Sequence[Names], labels: Sequence[str]) -> Flags:
    flags = np.zeros((len(sets), len(labels)), dtype=np.bool_)
    places = {label: place for place, label in enumerate(labels)}
    for row, names in enumerate(sets):
        flags[row, [places[name] for name in names]] = True
    return flags
