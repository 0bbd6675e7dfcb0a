"""A word for a missing value is missing in every format, and keeps its text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from medtask.tables.cell_values import is_missing, read_cell, read_present_cell
from medtask.tables.missing import MISSING_WORDS, MissingText, mark_missing
from medtask.tables.read import read_table, validate_table
from medtask.tables.table import Table

TEXTS = ["stent", "NA", "none", None, "", "n/a", "0", " - "]
PRESENT = ["stent", None, "none", None, None, None, "0", None]


def write_table(path: Path) -> Path:
    frame = pl.DataFrame({"id": range(len(TEXTS)), "note": TEXTS})
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".parquet":
            frame.write_parquet(path)
        case ".xlsx":
            frame.to_pandas().to_excel(path, index=False)
        case ".jsonl":
            lines = [json.dumps({"id": row, "note": text}) for row, text in enumerate(TEXTS)]
            path.write_text("\n".join(lines))
    return path


def read_notes(table: Table) -> list[str | None]:
    return [read_present_cell(row["note"]) for row in table]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.xlsx", "t.jsonl"])
def test_every_format_has_the_same_missing_values(name: str, tmp_path: Path) -> None:
    assert read_notes(read_table(write_table(tmp_path / name))) == PRESENT


def test_a_data_frame_has_the_same_missing_values() -> None:
    assert read_notes(read_table(pd.DataFrame({"note": TEXTS}))) == PRESENT
    values = [pd.NA, pd.NaT, float("nan"), None, "x"]
    assert read_notes(read_table(pd.DataFrame({"note": values}))) == [None] * 4 + ["x"]


def test_the_text_of_a_missing_value_is_kept(tmp_path: Path) -> None:
    rows = list(read_table(write_table(tmp_path / "t.csv")))
    assert rows[1]["note"] == "NA" and isinstance(rows[1]["note"], MissingText)
    assert read_cell(rows[1]["note"]) == "NA"
    assert is_missing(rows[1]["note"]) and not rows[1]["note"]


def test_other_words_replace_the_default(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv")
    assert read_notes(read_table(path, missing=("none", "0"))) == [
        *("stent", "NA", None, None, None, "n/a", None, "-")
    ]
    without = read_table(path, missing=("",))
    assert read_notes(without)[1:3] == ["NA", "none"]
    assert validate_table(without).missing_words == {}


def test_a_number_can_stand_for_a_missing_value(tmp_path: Path) -> None:
    pl.DataFrame({"note": [-99, 3]}).write_parquet(tmp_path / "t.parquet")
    assert read_notes(read_table(tmp_path / "t.parquet", missing=("-99",))) == [None, "3"]


def test_the_words_are_part_of_the_digest_of_a_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv")
    assert read_table(path).digest() != read_table(path, missing=("none",)).digest()


@pytest.mark.parametrize("word", ["none", "None of these", "Na", "nil", "no", "0", "unknown", "x"])
def test_words_of_a_language_are_not_missing_values(word: str) -> None:
    assert word not in MISSING_WORDS
    assert mark_missing({"note": word})["note"] is word


def test_one_word_may_be_given_without_a_list(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path / "t.csv"), missing="none")
    assert table.options.missing == ("none",)
    assert read_notes(table)[:3] == ["stent", "NA", None]


@pytest.mark.parametrize("other", ["text", 5, None], ids=["texts", "a number", "an empty cell"])
def test_a_word_is_found_in_rows_of_texts_and_in_rows_of_other_cells(other: object) -> None:
    row = mark_missing({"a": " NA ", "b": other, "c": "none", "d": "-" + " " * 300})
    assert [column for column, cell in row.items() if isinstance(cell, MissingText)] == ["a"]
    plain = {"a": "stent", "b": other}
    assert mark_missing(plain) == plain
