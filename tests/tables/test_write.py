"""Every format: what is written is what is read, whole or not at all."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import numpy as np
import openpyxl
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.errors import TableError, UsageError
from medtask.tables.read import read_table
from medtask.tables.write import FORMATS, Column, write_answers

LABELS = ("curative", "palliative")
COLUMNS = (
    Column("case_id"),
    Column("text"),
    Column("answer", "text"),
    Column("confidence", "float"),
    Column("tokens", "int"),
)
ROWS = [
    [7, "left lung, lower lobe", "curative", 0.75, 12],
    [8, None, None, None, None],
    [9, 'a "b"\r\nc\rd', "palliative", 1.0, 0],
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".xlsx"])
def test_values_come_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"answers{suffix}"
    write_answers(path, COLUMNS, iter(ROWS))
    table = read_table(path)
    assert table.columns == tuple(column.name for column in COLUMNS)
    assert [list(row.values()) for row in table] == ROWS
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_csv_is_text(tmp_path):
    write_answers(tmp_path / "a.csv", COLUMNS, ROWS)
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "case_id,text,answer,confidence,tokens\r\n"
        '7,"left lung, lower lobe",curative,0.75,12\r\n'
        "8,,,,\r\n"
        '9,"a ""b""\r\nc\rd",palliative,1.0,0\r\n'
    )


def test_a_byte_order_mark_is_written_only_before_letters_beyond_ascii(tmp_path):
    path, columns = tmp_path / "a.csv", [Column("id"), Column("text")]
    write_answers(path, columns, iter([[1, "Blære"]]), byte_order_mark=True)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,text\r\n")
    assert list(read_table(path)) == [{"id": "1", "text": "Blære"}]
    write_answers(path, columns, [[1, "Blære"]])
    assert path.read_bytes().startswith(b"id,text\r\n")
    write_answers(path, columns, [[1, ["ascii"]]], byte_order_mark=True)
    assert path.read_bytes().startswith(b"id,text\r\n")
    write_answers(path, columns, [["=1", {"organ": "øye"}]], byte_order_mark=True)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_rows_are_a_table_with_columns(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_answers(path, [Column("id"), Column("p", "float")], [])
    if suffix == ".jsonl":
        assert path.read_bytes() == b""
    else:
        table = read_table(path)
        assert (table.columns, list(table)) == (("id", "p"), [])


def test_probabilities_are_a_struct_in_parquet_and_an_object_in_jsonl(tmp_path):
    columns = [Column("id"), Column("probabilities", "probabilities", LABELS)]
    rows = [["1", {"curative": 0.25, "palliative": 0.75}], ["2", None]]
    for suffix in (".parquet", ".jsonl"):
        write_answers(tmp_path / f"a{suffix}", columns, rows)
        assert [list(row.values()) for row in read_table(tmp_path / f"a{suffix}")] == rows
    schema = pl.read_parquet_schema(tmp_path / "a.parquet")
    assert schema["probabilities"] == pl.Struct(dict.fromkeys(LABELS, pl.Float64))


def test_no_cell_of_csv_or_xlsx_is_a_formula(tmp_path):
    texts = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'=1",
        "\0=1",
        '=HYPERLINK("http://x")',
    ]
    for suffix in (".csv", ".xlsx"):
        path = tmp_path / f"a{suffix}"
        write_answers(path, [Column("=id"), Column("n")], [[text, -1] for text in texts])
        table = read_table(path)
        assert table.columns == ("=id", "n")
        assert [row["=id"] for row in table][:7] == texts[:7]
        assert [row["n"] for row in table] == ["-1" if suffix == ".csv" else -1] * len(texts)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        written = [cells[0] for cells in csv.reader(stream)]
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx").active
    written += [row[0].value for row in sheet.iter_rows()]
    assert all(cell[0] in "'\ufffd" for cell in written)
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx").active
    assert {cell.data_type for row in sheet.iter_rows() for cell in row} == {"s", "n"}


def test_values_of_every_kind_can_be_written(tmp_path):
    values = [
        True,
        float("nan"),
        float("inf"),
        2**70,
        [1, "é"],
        {"a": None, "b": float("nan")},
        "\ud800",
        "\0",
    ]
    expected = {
        ".csv": [
            "true",
            "",
            "inf",
            str(2**70),
            '[1, "é"]',
            '{"a": null, "b": null}',
            "\ufffd",
            "\ufffd",
        ],
        ".jsonl": [True, None, None, 2**70, [1, "é"], {"a": None, "b": None}, "\ud800", "\0"],
        ".parquet": [
            "true",
            "nan",
            "inf",
            str(2**70),
            '[1, "é"]',
            '{"a": null, "b": null}',
            "\ufffd",
            "\0",
        ],
        ".xlsx": [True, None, None, str(2**70), '[1, "é"]', '{"a": null, "b": null}', None, None],
    }
    for suffix, cells in expected.items():
        write_answers(tmp_path / f"a{suffix}", [Column("n"), Column("v")], enumerate(values))
        assert [row["v"] for row in read_table(tmp_path / f"a{suffix}")] == cells


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_of_numpy_are_numbers(tmp_path, suffix):
    write_answers(tmp_path / f"a{suffix}", [Column("p", "float")], [[np.float64(-0.5)]])
    assert [row["p"] for row in read_table(tmp_path / f"a{suffix}")] == [
        "-0.5" if suffix == ".csv" else -0.5
    ]


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a supported format for answers") as raised:
        write_answers(tmp_path / "a.docx", COLUMNS, ROWS)
    assert ".parquet" in raised.value.fix


@pytest.mark.parametrize("suffix", FORMATS)
def test_after_an_error_in_the_rows_the_old_file_is_untouched(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def rows():
        yield from ROWS
        raise TableError("row 4 is wrong", fix="mend it")

    with pytest.raises(TableError):
        write_answers(path, COLUMNS, rows())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK_SCRIPT = """
import resource, sys
from pathlib import Path
from medtask.tables.write import FORMATS, Column, write_answers
from medtask.errors import StorageError
import polars, os
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for suffix in FORMATS:
    path = Path(sys.argv[1]) / f"a{suffix}"
    try:
        write_answers(path, [Column("text")], ([os.urandom(500).hex()] for _ in range(1000)))
    except StorageError as error:
        print(suffix, error)
"""


def test_a_full_disk_is_reported_for_every_format_and_the_old_file_is_untouched(tmp_path):
    for suffix in FORMATS:
        (tmp_path / f"a{suffix}").write_bytes(b"old")
    shown = subprocess.run(
        # -B: Python 3.11 would store bytecode of which only a part was written.
        [sys.executable, "-B", "-c", FULL_DISK_SCRIPT, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(FORMATS)
    assert all(
        re.search(r"a\.\w+ cannot be written: File too large \([\d,]+ bytes free\)", line)
        for line in lines
    )
    assert sorted([path.name for path in tmp_path.iterdir()]) == sorted(
        f"a{suffix}" for suffix in FORMATS
    )
    assert all((tmp_path / f"a{suffix}").read_bytes() == b"old" for suffix in FORMATS)


XML_ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
texts = st.text() | st.sampled_from(
    ["_x000D_", "_x_x0041__", "\r", "\r\n", " \t", "]]>", "&lt;", "a\u2028b", "=1", "''", "\x85"]
)


pairs = st.tuples(texts, texts)


# Few tables, some of many rows: every workbook and Parquet file is read by a new process.
@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(pairs, min_size=1, max_size=3) | st.lists(pairs, min_size=15, max_size=30))
def test_any_text_survives_the_round_trip(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("write") / f"a{suffix}"
    columns = [Column("row"), Column("any"), Column("text", "text")]
    write_answers(path, columns, [(number, *row) for number, row in enumerate(rows)])
    for row, (first, second) in zip(read_table(path), rows, strict=True):
        for cell, text in ((row["any"], first), (row["text"], second)):
            if suffix == ".csv":
                assert cell == text.replace("\0", "\ufffd")
            elif suffix == ".xlsx":
                assert ("" if cell is None else cell) == XML_ILLEGAL.sub("", text)
            else:
                assert cell == text
