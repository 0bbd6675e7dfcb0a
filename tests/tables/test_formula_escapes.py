"""No text of a file for people runs as a formula, and every text comes back as it was."""

from __future__ import annotations

import csv
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.errors import EncodingGuessWarning
from medtask.tables.formula_escapes import ESCAPE_COLUMN, escape_formula, unescape_formula
from medtask.tables.read import read_table
from medtask.tables.write import Column, write_answers

DANGEROUS = "=+-@\t\r\0"
COLUMNS = [Column("id", "text"), Column("- note"), Column("answer", "text")]
ROWS = [["1", "- fever", "+"], ["2", "no fever", "-"], ["3", "'quoted", "++"], ["=4", "x", "'+"]]


@given(st.text(st.sampled_from(DANGEROUS + "'a1 \n"), max_size=5) | st.text())
def test_an_escape_can_be_undone_and_nothing_dangerous_comes_first(text: str) -> None:
    assert unescape_formula(escape_formula(text)) == text
    assert escape_formula(text)[:1] not in set(DANGEROUS)


@pytest.mark.parametrize("text", ["", "a=1", "'quoted'", "1-2", " =1"])
def test_harmless_text_stays(text: str) -> None:
    assert escape_formula(text) == text == unescape_formula(text)


def keep(path: Path) -> Path:
    return path.rename(path.with_name(f"renamed{path.suffix}"))


def save_again(path: Path) -> Path:
    """What a spreadsheet does to a workbook: its cells, in another order of rows and columns."""
    if path.suffix == ".csv":
        return save_as_csv(path)
    book = openpyxl.load_workbook(path)
    sheet = book.active
    assert sheet is not None
    header, *rows = [[cell.value for cell in reversed(row)] for row in sheet.iter_rows()]
    sheet.delete_rows(1, sheet.max_row)
    for row in [header, *reversed(rows)]:
        sheet.append(row)
    book.save(path)
    return path


def save_as_csv(path: Path) -> Path:
    """What a spreadsheet with Western European settings saves: semicolons, Windows-1252."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            rows: list[list[object]] = [list(row) for row in csv.reader(stream)]
    else:
        sheet = openpyxl.load_workbook(path).active
        assert sheet is not None
        rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    target = path.with_name("saved.csv")
    with target.open("w", encoding="cp1252", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)
    return target


def save_as_workbook(path: Path) -> Path:
    book = openpyxl.Workbook()
    assert book.active
    with save_as_csv(path).open(encoding="cp1252", newline="") as stream:
        for row in csv.reader(stream, delimiter=";"):
            book.active.append(["" if cell is None else cell for cell in row])
    for cells in book.active.iter_rows():
        for cell in cells:
            cell.data_type = "s"
    book.save(path.with_name("saved.xlsx"))
    return path.with_name("saved.xlsx")


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("change", [keep, save_again, save_as_csv, save_as_workbook])
def test_text_comes_back_from_files_that_were_moved_or_saved_in_a_spreadsheet(
    tmp_path: Path, suffix: str, change: Callable[[Path], Path]
) -> None:
    path = tmp_path / f"answers{suffix}"
    write_answers(path, COLUMNS, ROWS)
    table = read_table(change(path))
    assert set(table.columns) == {"id", "- note", "answer"}
    assert sorted([str(row["id"]), row["- note"], row["answer"]] for row in table) == sorted(ROWS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("target", ["xlsx", "csv:Text - txt - csv (StarCalc):59,34,1,1"])
def test_text_comes_back_from_files_that_libreoffice_has_saved(
    tmp_path: Path, suffix: str, target: str
) -> None:
    path = tmp_path / f"answers{suffix}"
    write_answers(path, COLUMNS, ROWS)
    command = ["soffice", "--headless", f"-env:UserInstallation=file://{tmp_path}/profile"]
    command += ["--convert-to", target, "--outdir", str(tmp_path / "saved"), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    table = read_table(next((tmp_path / "saved").iterdir()))
    assert [[str(row["id"]), row["- note"], row["answer"]] for row in table] == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_file_without_such_text_has_no_further_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    write_answers(path, [Column("id"), Column("text")], [["1", "a=1"], ["2", "'quoted'"]])
    assert read_table(path).columns == ("id", "text")
    assert ESCAPE_COLUMN.encode() not in path.read_bytes()


def test_a_table_of_another_tool_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("id,text\n1,'- fever\n2,'=x\n")
    assert [row["text"] for row in read_table(path)] == ["'- fever", "'=x"]


def test_rows_that_were_added_to_a_file_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    write_answers(path, COLUMNS, ROWS)
    with path.open("a", encoding="utf-8") as stream:
        stream.write("5,'- typed,x,\r\n")
    assert list(read_table(path))[-1]["- note"] == "'- typed"


words = st.text(st.sampled_from(DANGEROUS.replace("\0", "") + "'a1 é\n"), max_size=4)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(words, words), min_size=1, max_size=5))
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("escapes") / f"answers{suffix}"
    write_answers(
        path,
        [Column("row"), Column("@a"), Column("b")],
        [(number, *row) for number, row in enumerate(rows)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", EncodingGuessWarning)
        found = [
            tuple("" if row[name] is None else row[name] for name in ("@a", "b"))
            for row in read_table(path)
        ]
    assert found == rows
