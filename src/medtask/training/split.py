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

from medtask.training.near_duplicates import IndexArray, merge_clusters
from medtask.training.training_example import shuffle_by_hash

RowLabels = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SplitReport:
    """How rows were divided. ``has_own_table``: the rows to stop by are a table of their own,
    and nothing was moved. ``near_duplicate_rows``: rows that stay on one side because they are
    near duplicates of others; None where near duplicates had to be parted.
    """

    has_own_table: bool
    share: float
    seed: int
    near_duplicate_rows: int | None = 0

    def describe(self) -> str:
        """How the rows to validate by were found, in a sentence."""
        if self.has_own_table:
            return "the rows to validate by are a table of their own"
        near_duplicates = (
            f"; {self.near_duplicate_rows:,} rows with near duplicates stay with those"
            if self.near_duplicate_rows
            else ""
        )
        return (
            f"{self.share:.3g} of the rows are set aside by label, with seed {self.seed}; "
            f"groups and equal texts stay together{near_duplicates}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.has_own_table,
            "share": None if self.has_own_table else self.share,
            "seed": self.seed,
            "joined": self.near_duplicate_rows,
        }


@dataclass(slots=True)
class _RowCluster:
    rows: list[int] = field(default_factory=list)
    label_counts: Counter[str] = field(default_factory=Counter)


def merge_equal_rows(clusters: IndexArray, keys: Iterable[Hashable]) -> IndexArray:
    """Families as before, but rows with the same mark are of one; a mark of None is none."""
    seen: dict[Hashable, int] = {}
    pairs = [
        (seen.setdefault(mark, index), index) for index, mark in enumerate(keys) if mark is not None
    ]
    first, second = (
        (np.array(ends, dtype=np.int64) for ends in zip(*pairs, strict=True))
        if pairs
        else (np.zeros(0, np.int64),) * 2
    )
    return merge_clusters(clusters, first, second)


def select_validation_rows(
    keys: Sequence[bytes], clusters: IndexArray, labels: RowLabels, share: float, seed: int
) -> NDArray[np.bool_] | None:
    """Which rows to stop by: [rows]; None where there is no way to part them.

    ``keys``: what tells rows from one another, whatever their order. ``clusters``: rows with the
    same number stay together. ``labels``: of each row. Each label gives its share, rounded (with a
    tenth: one row of six, none of five), as far as families allow, and never more than half of its
    rows; where labels are too rare for that, the rarest wanted first, until the share of all rows
    is reached.
    """
    draw = _StratifiedSampler(keys, clusters, labels, share, seed)
    draw.fill_label_targets()
    draw.fill_row_target()
    if not draw.selected_rows:
        draw.take_smallest_cluster()
    mask = np.zeros(len(keys), dtype=bool)
    mask[draw.selected_rows] = True
    return mask if draw.selected_rows else None


class _StratifiedSampler:
    """A draw under way. Families come in a drawn order; whatever is taken is never given back."""

    def __init__(
        self,
        keys: Sequence[bytes],
        clusters: IndexArray,
        labels: RowLabels,
        share: float,
        seed: int,
    ) -> None:
        members: dict[int, _RowCluster] = defaultdict(_RowCluster)
        numbers = clusters.tolist()
        for index in shuffle_by_hash(keys, seed):
            cluster = members[numbers[index]]
            cluster.rows.append(index)
            cluster.label_counts.update(labels[index])
        self.remaining = dict(enumerate(members.values()))
        self.label_counts = Counter(name for names in labels for name in names)
        self.label_targets = {name: share * count for name, count in self.label_counts.items()}
        self.row_target = max(1.0, share * len(keys))
        self.selected_labels: Counter[str] = Counter()
        self.selected_rows: list[int] = []

    def fill_label_targets(self) -> None:
        """Label by label, the rarest first: what brings the labels nearer to their goals."""
        by_label: dict[str, list[int]] = defaultdict(list)
        for number, cluster in self.remaining.items():
            for name in cluster.label_counts:
                by_label[name].append(number)
        for name in sorted(by_label, key=lambda name: (self.label_counts[name], name)):
            for number in by_label[name]:
                if 2 * (self.label_targets[name] - self.selected_labels[name]) <= 1:
                    break
                if (
                    number in self.remaining
                    and self._compute_gain(self.remaining[number]) > 0
                    and self._can_take(self.remaining[number])
                ):
                    self._take_cluster(number)

    def fill_row_target(self) -> None:
        """Whatever is wanted most, until the share of all rows is reached."""
        if 2 * (self.row_target - len(self.selected_rows)) <= 1:
            return
        gains = {number: self._compute_gain(cluster) for number, cluster in self.remaining.items()}
        for number in sorted(gains, key=lambda number: -gains[number]):
            cluster = self.remaining[number]
            if 2 * (self.row_target - len(self.selected_rows)) > len(
                cluster.rows
            ) and self._can_take(cluster):
                self._take_cluster(number)

    def take_smallest_cluster(self) -> None:
        """The smallest family that may be taken, though it is larger than the share."""
        fitting = [number for number, cluster in self.remaining.items() if self._can_take(cluster)]
        if fitting:
            self._take_cluster(min(fitting, key=lambda number: len(self.remaining[number].rows)))

    def _compute_gain(self, cluster: _RowCluster) -> float:
        """By how much the squared distances of its labels from their goals shrink, each in units of
        its goal.
        """
        needs = (
            (count, self.label_targets[name] - self.selected_labels[name], self.label_targets[name])
            for name, count in cluster.label_counts.items()
        )
        return sum(count * (2 * need - count) / goal for count, need, goal in needs)

    def _can_take(self, cluster: _RowCluster) -> bool:
        return all(
            2 * (self.selected_labels[name] + count) <= self.label_counts[name]
            for name, count in cluster.label_counts.items()
        )

    def _take_cluster(self, number: int) -> None:
        cluster = self.remaining.pop(number)
        self.selected_rows += cluster.rows
        self.selected_labels.update(cluster.label_counts)
