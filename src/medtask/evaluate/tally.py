"""Counts rows that are alike, each by itself or in the group that it belongs to, as a bootstrap
draws them again.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluate.intervals import Counts, Units

Cell = tuple[int, ...]  # what all is known of a row; rows with the same are alike


class GroupSums:
    """Counts by column for each group of rows. Sixteen bytes a count, whatever the number of
    columns.
    """

    def __init__(self) -> None:
        self._groups: dict[str, int] = {}
        self._columns: dict[Hashable, int] = {}
        self._group_of, self._column_of = array("q"), array("q")

    def add(self, group: str, columns: Iterable[Hashable]) -> None:
        """One more in each of these columns."""
        place = self._groups.setdefault(group, len(self._groups))
        for column in columns:
            self._group_of.append(place)
            self._column_of.append(self._columns.setdefault(column, len(self._columns)))

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def columns(self) -> Iterable[Any]:
        return self._columns.keys()

    def table(self, columns: Sequence[Hashable]) -> Any:
        """Sparse, [groups, columns], groups by name: the order in which rows came says nothing."""
        from scipy.sparse import csr_array

        line = np.empty(len(self._groups), dtype=np.int64)
        line[[self._groups[name] for name in sorted(self._groups)]] = np.arange(len(line))
        wanted = {column: place for place, column in enumerate(columns)}
        place_of = np.array([wanted.get(column, -1) for column in self._columns], dtype=np.int64)
        group, column = line[np.asarray(self._group_of)], place_of[np.asarray(self._column_of)]
        kept = column >= 0
        ones = np.ones(int(kept.sum()), dtype=np.int64)
        return csr_array((ones, (group[kept], column[kept])), shape=(len(line), len(columns)))


class Tally:
    """Rows by cell, and by group where they have one; a row without a group is its own. Memory
    grows with the cells, and with the rows only where these have groups.
    """

    def __init__(self) -> None:
        self._alone: Counter[Cell] = Counter()
        self._groups = GroupSums()

    def add(self, cell: Cell, group: str | None = None) -> None:
        if group:
            self._groups.add(group, (cell,))
        else:
            self._alone[cell] += 1

    def finish(self) -> tuple[Counts, Units]:
        """The cells, [cells, parts] in order, and the units that bring rows of them."""
        cells = sorted({*self._alone, *self._groups.columns})
        found = np.array(cells, dtype=np.int64).reshape(len(cells), len(cells[0]) if cells else 0)
        alone = np.array([self._alone[cell] for cell in cells], dtype=np.int64)
        return found, join_units(alone, self._groups.table(cells) if len(self._groups) else None)


def set_apart(codes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Numbers of groups [n], -1 for a row without one, which becomes a group of its own; None where
    no row has one.
    """
    groups = np.array(codes, dtype=np.int64)
    alone = groups < 0
    if alone.all():
        return None
    groups[alone] = groups.max() + 1 + np.arange(int(alone.sum()))
    return groups


def group_rows(groups: Sequence[str | None], rows: int) -> Units:
    """Units of ``rows`` rows of which each is a cell of its own; ``groups`` may be empty, and has
    None where a row has no group.
    """
    if not any(groups):
        return Units(np.ones(rows, dtype=np.int64))
    alone = np.array([not group for group in groups], dtype=np.int64)
    sums = GroupSums()
    for row, group in enumerate(groups):
        if group:
            sums.add(group, (row,))
    return join_units(alone, sums.table(range(rows)))


def join_units(alone: Counts, table: Any = None) -> Units:
    """Rows without a group, [cells], and a ``table`` of groups, sparse [groups, cells],
    together.
    """
    if table is None or table.sum(axis=1).max(initial=0) <= 1:
        return Units(alone if table is None else alone + np.asarray(table.sum(axis=0)).ravel())
    from scipy.sparse import eye_array, vstack

    single = np.flatnonzero(alone)
    rows = vstack(
        [eye_array(len(alone), dtype=np.int64, format="csr")[single], table], format="csr"
    )
    groups = table.shape[0]
    return Units(
        np.concatenate([alone[single], np.ones(groups, dtype=np.int64)]),
        rows,
        int(alone.sum()) + groups,
    )
