"""Parquet: one type a column, found out without holding the rows."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.tables import write_parquet as module
from medtask.tables.cell_values import format_cell
from medtask.tables.table import Column
from medtask.tables.write import write_answers

BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("values", "dtype", "cells"),
    [
        ([1, None, 2, BIG], pl.Int64, [1, None, 2, BIG]),
        ([True, None, None, False], pl.Boolean, [True, None, None, False]),
        ([1, 2, 0.5, None], pl.Float64, [1.0, 2.0, 0.5, None]),
        ([0.5, None, None, 3], pl.Float64, [0.5, None, None, 3.0]),
        ([None, None, None, "a"], pl.String, [None, None, None, "a"]),
        ([None, None, None, None], pl.String, [None, None, None, None]),
        ([None, None, None, 5], pl.Int64, [None, None, None, 5]),
        ([BIG, 0.5, 1, 2], pl.String, [str(BIG), "0.5", "1", "2"]),
        ([2**63, 1, 2, 3], pl.String, [str(2**63), "1", "2", "3"]),
        ([1, 2.5, "a", True], pl.String, ["1", "2.5", "a", "true"]),
        ([True, 1, 0, 1], pl.String, ["true", "1", "0", "1"]),
        ([[1], None, {"a": 1}, 3], pl.String, ["[1]", None, '{"a": 1}', "3"]),
    ],
)
@pytest.mark.parametrize("part_rows", [1, 2, 3, 100])
def test_a_column_has_one_type_for_the_values_of_all_parts(
    tmp_path, monkeypatch, values, dtype, cells, part_rows
):
    monkeypatch.setattr(module, "_PART_ROWS", part_rows)
    write_answers(tmp_path / "a.parquet", [Column("v")], [[value] for value in values])
    (column,) = pl.read_parquet(tmp_path / "a.parquet")
    assert (column.dtype, column.to_list()) == (dtype, cells)


cells = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(cells, max_size=8))
def test_no_mixture_of_values_is_lost(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    write_answers(path, [Column("v")], [[value] for value in values])
    (column,) = pl.read_parquet(path)
    if column.dtype == pl.String:
        assert column.to_list() == [
            None if value is None else format_cell(value) for value in values
        ]
    else:
        assert column.to_list() == values


def test_the_parts_of_a_killed_process_are_replaced(tmp_path):
    (tmp_path / ".a.parquet.draft.parts").mkdir()
    (tmp_path / ".a.parquet.draft.parts" / "000000.parquet").write_bytes(b"half")
    write_answers(tmp_path / "a.parquet", [Column("v")], [[1]])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
