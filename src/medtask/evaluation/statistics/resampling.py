"""Counts of equal rows, single or in groups, for the bootstrap."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.intervals import IntArray, ResamplingUnits

FOLDS = 5  # folds of cross-validation and cross-fitting
# all values of a row that a metric depends on; rows with equal keys are alike
CellKey = tuple[int, ...]


class GroupCounts:
    """Counts by column for each group of rows; 16 bytes per count."""

    def __init__(self) -> None:
        self._groups: dict[str, int] = {}
        self._columns: dict[Hashable, int] = {}
        self._group_of, self._column_of = array("q"), array("q")

    def add(self, group: str, columns: Iterable[Hashable]) -> None:
        """Adds one to each of these columns."""
        place = self._groups.setdefault(group, len(self._groups))
        for column in columns:
            self._group_of.append(place)
            self._column_of.append(self._columns.setdefault(column, len(self._columns)))

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def columns(self) -> Iterable[Any]:
        return self._columns.keys()

    def to_sparse(self, columns: Sequence[Hashable]) -> Any:
        """Sparse [groups, columns]; groups are sorted by name, independent of the order of rows."""
        from scipy.sparse import csr_array

        line = np.empty(len(self._groups), dtype=np.int64)
        line[[self._groups[name] for name in sorted(self._groups)]] = np.arange(len(line))
        wanted = {column: place for place, column in enumerate(columns)}
        place_of = np.array([wanted.get(column, -1) for column in self._columns], dtype=np.int64)
        group, column = line[np.asarray(self._group_of)], place_of[np.asarray(self._column_of)]
        kept = column >= 0
        ones = np.ones(int(kept.sum()), dtype=np.int64)
        return csr_array((ones, (group[kept], column[kept])), shape=(len(line), len(columns)))


class CellCounter:
    """Counts rows by cell, and by group; a row without a group is a separate unit."""

    def __init__(self) -> None:
        self._alone: Counter[CellKey] = Counter()
        self._groups = GroupCounts()

    def add(self, cell: CellKey, group: str | None = None) -> None:
        if group:
            self._groups.add(group, (cell,))
        else:
            self._alone[cell] += 1

    def finish(self) -> tuple[IntArray, ResamplingUnits]:
        """The cells [cells, parts] in order, and the resampling units made of their rows."""
        cells = sorted({*self._alone, *self._groups.columns})
        found = np.array(cells, dtype=np.int64).reshape(len(cells), len(cells[0]) if cells else 0)
        alone = np.array([self._alone[cell] for cell in cells], dtype=np.int64)
        return found, combine_units(
            alone, self._groups.to_sparse(cells) if len(self._groups) else None
        )


def assign_singleton_groups(codes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Group numbers [n], with a new number for each -1. None if all are -1."""
    groups = np.array(codes, dtype=np.int64)
    alone = groups < 0
    if alone.all():
        return None
    groups[alone] = groups.max() + 1 + np.arange(int(alone.sum()))
    return groups


def build_resampling_units(groups: Sequence[str | None], n_rows: int) -> ResamplingUnits:
    """Resampling units of rows; ``groups`` may be empty, and None is a row without a group."""
    if not any(groups):
        return ResamplingUnits(np.ones(n_rows, dtype=np.int64))
    alone = np.array([not group for group in groups], dtype=np.int64)
    sums = GroupCounts()
    for row, group in enumerate(groups):
        if group:
            sums.add(group, (row,))
    return combine_units(alone, sums.to_sparse(range(n_rows)))


def combine_units(ungrouped: IntArray, group_table: Any = None) -> ResamplingUnits:
    """Resampling units of rows without a group [cells] and of groups, sparse [groups, cells]."""
    if group_table is None or group_table.sum(axis=1).max(initial=0) <= 1:
        return ResamplingUnits(
            ungrouped
            if group_table is None
            else ungrouped + np.asarray(group_table.sum(axis=0)).ravel()
        )
    from scipy.sparse import eye_array, vstack

    single = np.flatnonzero(ungrouped)
    rows = vstack(
        [eye_array(len(ungrouped), dtype=np.int64, format="csr")[single], group_table], format="csr"
    )
    groups = group_table.shape[0]
    return ResamplingUnits(
        np.concatenate([ungrouped[single], np.ones(groups, dtype=np.int64)]),
        rows,
        int(ungrouped.sum()) + groups,
    )


def sample_one_per_group(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Indices of one random row of each group, in the table's order."""
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.asarray(groups)[shuffled], return_index=True)
    return np.sort(shuffled[first])
