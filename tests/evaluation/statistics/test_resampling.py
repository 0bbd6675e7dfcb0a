"""Counts of rows by cell and by group do not depend on the order of rows."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from medtask.evaluation.statistics.resampling import CellCounter, GroupCounts

ROWS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from([None, "", "a", "b", "c"])
    ),
    max_size=30,
)


@given(ROWS, st.integers())
def test_units_bring_the_rows_that_were_counted(
    rows: list[tuple[tuple[int, int], str | None]], seed: int
) -> None:
    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    found = []
    for order in (rows, shuffled):
        counter = CellCounter()
        for cell, group in order:
            counter.add(cell, group)
        cells, units = counter.finish()
        assert [tuple(cell) for cell in cells.tolist()] == sorted({cell for cell, _ in rows})
        assert units.count_rows_per_cell().tolist() == [
            sum(other == tuple(cell) for other, _ in rows) for cell in cells.tolist()
        ]
        brought = units.cell_counts.toarray().tolist() if units.cell_counts is not None else None
        found.append((cells.tolist(), units.counts.tolist(), brought, units.n_groups))
    assert found[0] == found[1]
    named = [group for _, group in rows if group]
    independent = len(named) == len(set(named))
    assert (found[0][3] is None) == independent
    if not independent:
        assert found[0][3] == len(set(named)) + len(rows) - len(named)


def test_a_group_without_any_count_is_a_group() -> None:
    sums = GroupCounts()
    sums.add("b", ["x", "x"])
    sums.add("a", [])
    assert sums.to_sparse(["y", "x"]).toarray().tolist() == [[0, 0], [0, 2]]
