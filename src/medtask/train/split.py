"""Rows to learn from and rows to stop by: no patient and no text on both sides, every label on both
where it can be.

scikit-learn's StratifiedGroupKFold knows one label a row, shares of one k-th alone, and takes
minutes for 100,000 groups; it is the greedy idea of iterative stratification (Sechidis, Tsoumakas
and Vlahavas, "On the stratification of multi-label data", 2011) that is done here, on families of
rows that must not be parted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.train.lesson import draw_order
from medtask.train.twins import Places, join_pairs

Labels = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Divided:
    """How rows were divided. ``given``: the rows to stop by are a table of their own, and nothing
    was moved. ``joined``: rows that stay on one side because they are near duplicates of others;
    None where near duplicates had to be parted.
    """

    given: bool
    share: float
    seed: int
    joined: int | None = 0

    def tell(self) -> str:
        """How the rows to validate by were found, in a sentence."""
        if self.given:
            return "the rows to validate by are a table of their own"
        twins = (
            f"; {self.joined:,} rows with near duplicates stay with those" if self.joined else ""
        )
        return (
            f"{self.share:.3g} of the rows are set aside by label, with seed {self.seed}; "
            f"groups and equal texts stay together{twins}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.given,
            "share": None if self.given else self.share,
            "seed": self.seed,
            "joined": self.joined,
        }


@dataclass(slots=True)
class _Family:
    rows: list[int] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)


def join_equal(families: Places, marks: Iterable[Hashable]) -> Places:
    """Families as before, but rows with the same mark are of one; a mark of None is none."""
    seen: dict[Hashable, int] = {}
    pairs = [
        (seen.setdefault(mark, place), place)
        for place, mark in enumerate(marks)
        if mark is not None
    ]
    first, second = (
        (np.array(ends, dtype=np.int64) for ends in zip(*pairs, strict=True))
        if pairs
        else (np.zeros(0, np.int64),) * 2
    )
    return join_pairs(families, first, second)


def draw_validation(
    keys: Sequence[bytes], families: Places, labels: Labels, share: float, seed: int
) -> NDArray[np.bool_] | None:
    """Which rows to stop by: [rows]; None where there is no way to part them.

    ``keys``: what tells rows from one another, whatever their order. ``families``: rows with the
    same number stay together. ``labels``: of each row. Each label gives its share, rounded (with a
    tenth: one row of six, none of five), as far as families allow, and never more than half of its
    rows; where labels are too rare for that, the rarest wanted first, until the share of all rows
    is reached.
    """
    draw = _Draw(keys, families, labels, share, seed)
    draw.fill_labels()
    draw.fill_total()
    if not draw.held:
        draw.force()
    mask = np.zeros(len(keys), dtype=bool)
    mask[draw.held] = True
    return mask if draw.held else None


class _Draw:
    """A draw under way. Families come in a drawn order; whatever is taken is never given back."""

    def __init__(
        self, keys: Sequence[bytes], families: Places, labels: Labels, share: float, seed: int
    ) -> None:
        members: dict[int, _Family] = defaultdict(_Family)
        numbers = families.tolist()
        for place in draw_order(keys, seed):
            family = members[numbers[place]]
            family.rows.append(place)
            family.labels.update(labels[place])
        self.left = dict(enumerate(members.values()))
        self.counts = Counter(name for names in labels for name in names)
        self.goals = {name: share * count for name, count in self.counts.items()}
        self.goal = max(1.0, share * len(keys))
        self.taken: Counter[str] = Counter()
        self.held: list[int] = []

    def fill_labels(self) -> None:
        """Label by label, the rarest first: what brings the labels nearer to their goals."""
        by_label: dict[str, list[int]] = defaultdict(list)
        for number, family in self.left.items():
            for name in family.labels:
                by_label[name].append(number)
        for name in sorted(by_label, key=lambda name: (self.counts[name], name)):
            for number in by_label[name]:
                if 2 * (self.goals[name] - self.taken[name]) <= 1:
                    break
                if (
                    number in self.left
                    and self._gain(self.left[number]) > 0
                    and self._may_take(self.left[number])
                ):
                    self._take(number)

    def fill_total(self) -> None:
        """Whatever is wanted most, until the share of all rows is reached."""
        if 2 * (self.goal - len(self.held)) <= 1:
            return
        gains = {number: self._gain(family) for number, family in self.left.items()}
        for number in sorted(gains, key=lambda number: -gains[number]):
            family = self.left[number]
            if 2 * (self.goal - len(self.held)) > len(family.rows) and self._may_take(family):
                self._take(number)

    def force(self) -> None:
        """The smallest family that may be taken, though it is larger than the share."""
        fitting = [number for number, family in self.left.items() if self._may_take(family)]
        if fitting:
            self._take(min(fitting, key=lambda number: len(self.left[number].rows)))

    def _gain(self, family: _Family) -> float:
        """By how much the squared distances of its labels from their goals shrink, each in units of
        its goal.
        """
        needs = (
            (count, self.goals[name] - self.taken[name], self.goals[name])
            for name, count in family.labels.items()
        )
        return sum(count * (2 * need - count) / goal for count, need, goal in needs)

    def _may_take(self, family: _Family) -> bool:
        return all(
            2 * (self.taken[name] + count) <= self.counts[name]
            for name, count in family.labels.items()
        )

    def _take(self, number: int) -> None:
        family = self.left.pop(number)
        self.held += family.rows
        self.taken.update(family.labels)
