"""Ids and numbers keep the digits and characters that a user sees, and no others."""

from __future__ import annotations

import decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.errors import TableError
from medtask.tables.cell_values import read_key, restore_whole_number
from medtask.tables.read import read_table


@pytest.mark.parametrize(
    "cell", ["\ufeffA1", " A1\u00a0", "\u200bA1\u200b", "A1\u2007", "A\u00ad1", "A1\r\n"]
)
def test_an_id_has_no_invisible_characters(cell: str) -> None:
    assert read_key(cell) == "A1"


@pytest.mark.parametrize("cell", ["", " ", "\ufeff", "\u00a0\u200b", None, float("nan")])
def test_an_id_without_visible_characters_is_missing(cell: object) -> None:
    assert read_key(cell) is None


def test_whole_floats_keep_their_digits(tmp_path: Path) -> None:
    numbers = [1234567.0, 1e16, 123456789012345680.0, -3.0, 2.5, None]
    pl.DataFrame({"id": numbers}).write_parquet(tmp_path / "a.parquet")
    shown = ["1234567", "10000000000000000", "123456789012345680", "-3", "2.5", None]
    for source in (tmp_path / "a.parquet", pl.DataFrame({"id": numbers})):
        assert [read_key(row["id"]) for row in read_table(source)] == shown


def test_short_floats_have_no_digits_that_were_not_there(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": pl.Series([0.1, 37.5, 16777216.0, None], dtype=pl.Float32)})
    frame.write_parquet(tmp_path / "a.parquet")
    assert [row["x"] for row in read_table(tmp_path / "a.parquet")] == [0.1, 37.5, 16777216, None]
    (row,) = read_table([{"x": np.float32(0.1), "y": decimal.Decimal("12345678901234567890")}])
    assert row == {"x": 0.1, "y": 12345678901234567890}


def test_a_float_of_a_mapping_stays_as_it_was_written() -> None:
    (row,) = read_table([{"id": 7.0, "x": 37.0}])
    assert [str(cell) for cell in row.values()] == ["7.0", "37.0"]
    assert read_key(row["id"]) == "7"


def test_column_names_of_every_format_have_no_invisible_characters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"\ufeffid": 1, "te\u200bxt": "a"}]', "utf-8")
    (tmp_path / "a.jsonl").write_text('{"\ufeffid": 1, "te\u200bxt": "a"}\n', "utf-8")
    frame = pl.DataFrame({"\ufeffid": [1], "te\u200bxt": ["a"]})
    frame.write_parquet(tmp_path / "a.parquet")
    for source in (frame, *(tmp_path / f"a.{suffix}" for suffix in ("json", "jsonl", "parquet"))):
        assert list(read_table(source)) == [{"id": 1, "text": "a"}]
    with pytest.raises(TableError, match='columns "id" differ in invisible characters only'):
        read_table([{"id": 1, "\ufeffid": 2}])


@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_is_the_same_in_a_column_of_floats(number: int) -> None:
    assert read_key(restore_whole_number(float(number))) == str(number)
