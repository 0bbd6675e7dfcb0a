"""Standard input becomes a file whose ending says what it is."""

from __future__ import annotations

import gzip
import io
import json
import sys

import polars as pl
import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table, spool_stdin
from medtask.tables.write import Column, write_answers


def set_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


CSV = b"id,text\n1,a\n"
JSONL = b'{"id": "1", "text": "a"}\n' * 1
INDENTED = json.dumps({"id": ["1"], "text": ["a"]}, indent=2).encode()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CSV, "stdin.csv"),
        (CSV.decode().encode("utf-16"), "stdin.csv"),
        (JSONL, "stdin.jsonl"),
        (JSONL.strip(), "stdin.jsonl"),
        (b'\xef\xbb\xbf \n[{"id": "1", "text": "a"}]', "stdin.json"),
        (INDENTED, "stdin.json"),
        (gzip.compress(CSV, mtime=0), "stdin.csv.gz"),
        (gzip.compress(JSONL, mtime=0), "stdin.jsonl.gz"),
        (gzip.compress(INDENTED, mtime=0), "stdin.json.gz"),
        (JSONL.decode().encode("utf-16"), "stdin.jsonl"),
        (INDENTED.decode().encode("utf-16-le"), "stdin.json"),
        (b'{"data": [{"id": "1", "text": "a"}]}\n', "stdin.json"),
    ],
)
def test_text_is_recognised_by_its_first_bytes(monkeypatch, tmp_path, content, name):
    set_stdin(monkeypatch, content)
    path = spool_stdin(tmp_path)
    assert (path, path.stat().st_mode & 0o777) == (tmp_path / name, 0o600)
    assert path.read_bytes() == content
    assert list(read_table(path)) == [{"id": "1", "text": "a"}]


def test_a_long_first_line_of_json_is_a_line(monkeypatch, tmp_path):
    line = json.dumps({"id": "1", "text": "a" * 100_000}).encode()
    set_stdin(monkeypatch, line + b"\n" + line)
    assert [row["text"] for row in read_table(spool_stdin(tmp_path))] == ["a" * 100_000] * 2


def test_parquet_and_xlsx_are_recognised_by_their_first_bytes(monkeypatch, tmp_path):
    for suffix in (".parquet", ".xlsx"):
        write_answers(tmp_path / f"a{suffix}", [Column("id")], [["1"]])
        set_stdin(monkeypatch, (tmp_path / f"a{suffix}").read_bytes())
        assert list(read_table(spool_stdin(tmp_path))) == [{"id": "1"}]
        assert (tmp_path / f"stdin{suffix}").exists()
    assert pl.read_parquet(tmp_path / "stdin.parquet").height == 1


def test_empty_standard_input_is_refused(monkeypatch, tmp_path):
    set_stdin(monkeypatch, b"")
    with pytest.raises(TableError, match="standard input is empty"):
        spool_stdin(tmp_path)
    assert not list(tmp_path.iterdir())
