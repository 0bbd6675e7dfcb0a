"""Parquet: types stay, every row comes once, and the file is never in memory whole."""

from __future__ import annotations

import datetime
import time
import tracemalloc
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtask.errors import TableError
from medtask.tables import binary_files, read_parquet
from medtask.tables.read import read_table


def test_values_are_converted_to_cell_values(tmp_path):
    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    frame = pl.DataFrame(
        {
            "id": [9007199254740993, None],
            "f": [1.5, float("nan")],
            "t": [True, None],
            "text": ["café", None],
            "day": [day.date(), None],
            "at": [day, None],
            "time": [day.time(), None],
            "took": [datetime.timedelta(hours=30), None],
            "dose": [Decimal("1.10"), None],
            "whole": [Decimal("12345678901234567890.00"), None],
            "list": [[1, None], None],
            "struct": [{"a": day.date(), "b": "x"}, None],
            "kind": pl.Series(["a", None], dtype=pl.Categorical),
            "bytes": [b"caf\xc3\xa9", None],
        }
    )
    frame.write_parquet(tmp_path / "a[1]*.parquet")
    table = read_table(tmp_path / "a[1]*.parquet")
    assert list(table) == [
        {
            "id": 9007199254740993,
            "f": 1.5,
            "t": True,
            "text": "café",
            "day": "2026-01-02",
            "at": "2026-01-02T03:04:05",
            "time": "03:04:05",
            "took": "1 day, 6:00:00",
            "dose": "1.10",
            "whole": 12345678901234567890,
            "list": [1, None],
            "struct": {"a": "2026-01-02", "b": "x"},
            "kind": "a",
            "bytes": "café",
        },
        dict.fromkeys(table.columns),
    ]


def test_bytes_that_are_not_text_are_refused_with_their_column(tmp_path):
    pl.DataFrame({"id": [1], "scan": [b"\xff\x00"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(TableError, match='column "scan" contains bytes that are not text'):
        list(read_table(tmp_path / "a.parquet"))


def test_slices_contain_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(read_parquet, "_SLICE_ROWS", 7)
    pl.DataFrame({"id": range(50)}).write_parquet(tmp_path / "a.parquet", row_group_size=20)
    assert [row["id"] for row in read_table(tmp_path / "a.parquet")] == list(range(50))


def test_a_file_without_rows_is_a_table(tmp_path):
    pl.DataFrame(schema={"id": pl.Int64}).write_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert (table.columns, list(table)) == (("id",), [])


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_damaged_file_is_refused(tmp_path, keep):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"id": range(50)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TableError, match="truncated, damaged"):
        read_table(path)


def test_a_date_that_python_cannot_hold_is_refused_with_its_column(tmp_path):
    frame = pl.DataFrame({"id": [1, 2], "day": [0, 2**31 - 1]})
    frame.with_columns(pl.col("day").cast(pl.Date)).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(TableError, match='column "day" contains a value that cannot be read'):
        read_table(tmp_path / "a.parquet")


def test_long_texts_that_a_file_stores_once_need_little_memory(tmp_path):
    text = "x" * 2**20
    pl.DataFrame({"text": [text] * 500}).write_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2**20
    tracemalloc.start()
    assert sum(len(row["text"]) for row in read_table(tmp_path / "a.parquet")) == 500 * 2**20
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def test_a_file_that_states_more_rows_than_it_has_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"id": range(50)}).write_parquet(path, compression="uncompressed")
    data = path.read_bytes()
    # 50 and 1,000,000,000,000 as thrift writes them, in the footer
    changed = data[-600:].replace(bytes([100]), bytes.fromhex("80c0caf384a33a"))
    path.write_bytes(data[:-600] + changed)
    started = time.monotonic()
    with pytest.raises(TableError, match="truncated, damaged"):
        read_table(path)
    assert time.monotonic() - started < 30


def test_the_files_of_a_folder_are_inspected_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        binary_files, "call_isolated", lambda function, path, limits: calls.append(path) or 1
    )
    paths = [tmp_path / f"{number:02}.parquet" for number in range(40)]
    for path in paths:
        path.touch()
    for path in [*paths, *paths]:
        binary_files.inspect_file(path, "a Parquet file", "inspect")
    assert len(calls) == 40


def test_two_columns_of_one_name_are_refused_with_their_remedy(tmp_path):
    path = tmp_path / "joined.parquet"
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text"]), path)
    with pytest.raises(TableError, match="two columns have the same name") as raised:
        read_table(path)
    assert "its own name" in raised.value.fix
