"""Reading a table from a row on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from medtask.tables.read import read_table
from medtask.tables.table import Table


def write_parts(folder: Path, suffix: str) -> Table:
    """Three files of 7, 1 and 12 rows, in small row groups, whose columns are in another order."""
    folder.mkdir()
    for number, (first, rows) in enumerate([(0, 7), (7, 1), (8, 12)]):
        numbers = range(first, first + rows)
        frame = pl.DataFrame(
            {
                "text": [
                    f"=text {row}" if row % 3 else "n/a" for row in range(first, first + rows)
                ],
                "number": [row / 10 for row in numbers],
            }
        )
        frame = frame if number % 2 else frame.select("number", "text")
        path = folder / f"{number}{suffix}"
        if suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path, row_group_size=2)
    return read_table(folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_from_a_row_on_are_those_of_the_whole_table(tmp_path: Path, suffix: str) -> None:
    table = write_parts(tmp_path / "parts", suffix)
    rows = list(table)
    assert len(rows) == 20
    for first in range(1, 22):
        assert list(table.rows_from(first)) == rows[first - 1 :]


def test_rows_of_a_table_in_memory_can_start_later() -> None:
    table = read_table([{"text": f"row {row}"} for row in range(5)])
    assert list(table.rows_from(4)) == list(islice(table, 3, None))


def test_files_of_parquet_before_the_row_are_not_read(tmp_path: Path) -> None:
    table = write_parts(tmp_path / "parts", ".parquet")
    (tmp_path / "parts" / "0.parquet").unlink()
    assert [row["number"] for row in table.rows_from(9)] == [row / 10 for row in range(8, 20)]
