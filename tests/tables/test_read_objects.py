"""Objects in memory: recognised by what they can do, and turned into the same plain values as
files.
"""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table

ROWS = [{"id": 1, "text": "a", "when": "2026-01-02"}, {"id": 2, "text": None, "when": None}]
COLUMNS = {"id": [1, 2], "text": ["a", None], "when": [datetime.date(2026, 1, 2), None]}


def make_pandas():
    return pytest.importorskip("pandas").DataFrame({**COLUMNS, "when": ["2026-01-02", None]})


def make_pyarrow():
    return pytest.importorskip("pyarrow").table(COLUMNS)


def make_dataset():
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset(datasets.table.InMemoryTable(make_pyarrow()), fingerprint="any")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ROWS,
        lambda: tuple(ROWS),
        lambda: iter(ROWS),
        lambda: [ROWS[0], {"id": 2}],
        lambda: pl.DataFrame(COLUMNS),
        lambda: pl.LazyFrame(COLUMNS),
        make_pandas,
        make_pyarrow,
        make_dataset,
    ],
    ids=[
        "list",
        "tuple",
        "iterator",
        "ragged list",
        "polars",
        "lazy polars",
        "pandas",
        "pyarrow",
        "datasets",
    ],
)
def test_rows_of_every_kind_of_table_are_the_same(make):
    table = read_table(make())
    assert list(table) == list(table) == ROWS
    assert (table.paths, table.columns) == ((), ("id", "text", "when"))
    assert table.digest() == read_table(ROWS).digest()


def test_pandas_tables_of_more_than_one_batch_are_whole_and_missing_values_none():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"id": range(25_000), 7: [pandas.NA, pandas.NaT, np.nan, None, np.float64(1.5)] * 5_000}
    )
    table = read_table(frame)
    assert [row["id"] for row in table] == list(range(25_000))
    assert [row["7"] for row in table][:5] == [None, None, None, None, 1.5]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (float("nan"), None),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.5, 2.0]), [1.5, 2.0]),
        (Decimal("NaN"), None),
        (Decimal("2.50"), "2.50"),
        (Decimal("2"), 2),
        (datetime.time(3, 4), "03:04:00"),
        (b"caf\xc3\xa9", "café"),
        (("a", {1: float("nan")}), ["a", {"1": None}]),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_values_are_converted_to_cell_values(value, cell):
    ((row),) = read_table([{"a": value}])
    assert row == {"a": cell}
    assert type(row["a"]) is type(cell)


def test_a_frame_without_rows_keeps_its_columns():
    table = read_table(pl.DataFrame(schema={"id": pl.Int64}))
    assert (table.columns, list(table)) == (("id",), [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "a int is not a table"),
        ({"train": ROWS}, "a dict is not a table"),
        ([1, 2], "a list: row 1 is a int"),
        ([], "a list has no columns"),
        ([{"a": object()}], 'a list: column "a" contains a value of type object'),
        ([{"1": "a", 1: "b"}], 'a list has more than one column "1"'),
    ],
)
def test_objects_that_are_not_tables_are_refused(source, message):
    with pytest.raises(TableError, match=message):
        list(read_table(source))


def test_a_named_index_of_pandas_is_a_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"id": ["A1", "A2"], "text": ["a", "b"]})
    rows = [{"id": "A1", "text": "a"}, {"id": "A2", "text": "b"}]
    assert list(read_table(frame.set_index("id"))) == rows
    assert list(read_table(frame.set_index("id", drop=False))) == rows
    assert list(read_table(frame.set_index(pd.Index([7, 8])))) == rows
    assert read_table(frame.set_index(["id", "text"]).assign(n=1)).columns == ("id", "text", "n")


def test_a_column_of_pandas_alone_is_refused():
    pd = pytest.importorskip("pandas")
    with pytest.raises(TableError, match="row 1 is a str"):
        read_table(pd.Series(["a"]))


@pytest.mark.parametrize("name", ["", " ", "\u200b", None, float("nan")])
def test_a_column_without_a_name_is_refused(name):
    with pytest.raises(TableError, match="a column without a name"):
        read_table([{name: 1, "a": 2}])
