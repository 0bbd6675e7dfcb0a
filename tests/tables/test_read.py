"""Reading of tables: which files are tables, and the errors of those that are not."""

from __future__ import annotations

import gzip
import hashlib
import json
import os

import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", "id,text\n1,x\n"),
        ("a.TSV.GZ", "id\ttext\n1\tx\n"),
        ("a.jsonl.gz", '{"id": "1", "text": "x"}\n'),
        ("a.json.gz", '[{"id": "1", "text": "x"}]'),
    ],
)
def test_text_may_be_packed(write_file, name, content):
    table = read_table(str(write_file(gzip.compress(content.encode()), name)))
    assert list(table) == [{"id": "1", "text": "x"}]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize("keep", [5, 40, -1])
def test_a_damaged_gzip_file_is_refused(write_file, name, keep):
    with pytest.raises(TableError, match="gzip file is cut off or damaged"):
        list(read_table(write_file(gzip.compress(os.urandom(300).hex().encode())[:keep], name)))


def test_a_gz_file_that_is_not_gzip_is_refused(write_file):
    with pytest.raises(TableError, match="gzip file is cut off or damaged"):
        read_table(write_file("id\n1\n", "a.csv.gz"))


def test_a_folder_is_all_its_tables_in_the_order_of_their_names(write_file, tmp_path):
    write_file("id,text\n2,b\n", "b.csv")
    write_file('{"text": "a", "id": "1"}\n', "a.jsonl")
    write_file("ignored", ".hidden.csv")
    write_file("ignored", "~$b.xlsx")
    write_file("ignored", "readme.md")
    table = read_table(tmp_path)
    assert [list(row.items()) for row in table] == [
        [("text", "a"), ("id", "1")],
        [("text", "b"), ("id", "2")],
    ]
    assert [path.name for path in table.paths] == ["a.jsonl", "b.csv"]
    assert table.notes[2:] == ("not read: readme.md",)
    assert "b.csv: UTF-8, delimiter ," in table.notes[1]


def test_a_list_of_files_is_one_table(write_file):
    paths = [write_file("id\n1\n", "b.csv"), str(write_file("id\n2\n", "a.csv"))]
    table = read_table(paths)
    assert [row["id"] for row in table] == ["1", "2"]
    assert (table.source, table.notes) == ("2 files", ("UTF-8", "one column, no delimiter"))


def test_files_with_different_columns_are_refused(write_file, tmp_path):
    write_file("id,text\n", "a.csv")
    write_file("id,note\n", "b.csv")
    with pytest.raises(
        TableError,
        match=r'b\.csv: its columns differ from those of .*a\.csv: "note", "text" in one',
    ):
        read_table(tmp_path)


def test_what_is_not_read_of_a_folder_is_noted(write_file, tmp_path):
    for name in ("a.csv", "b.CSV", "c.txt", ".hidden", "~$d.xlsx"):
        write_file("id,text\n1,x\n", name)
    (tmp_path / "more").mkdir()
    table = read_table(tmp_path)
    assert len(list(table)) == 2
    assert table.notes[-1] == "not read: c.txt, more"


def test_a_folder_without_tables_is_refused(write_file, tmp_path):
    write_file("x", "readme.md")
    with pytest.raises(TableError, match="no tables in this folder"):
        read_table(tmp_path)


def test_a_missing_file_is_reported_with_the_most_similar_name(write_file, tmp_path):
    write_file("id\n", "procedures.csv")
    with pytest.raises(TableError, match="file not found") as raised:
        read_table(tmp_path / "procedure.csv")
    assert raised.value.fix == 'did you mean "procedures.csv"?'
    with pytest.raises(TableError, match="folder"):
        read_table(tmp_path / "nowhere" / "procedure.csv")


def test_a_link_that_leads_to_itself_is_not_suggested_in_its_own_place(tmp_path):
    (tmp_path / "rows.csv").symlink_to(tmp_path / "rows.csv")
    with pytest.raises(TableError, match="the link leads to no file") as raised:
        read_table(tmp_path / "rows.csv")
    assert "did you mean" not in raised.value.fix


@pytest.mark.parametrize("name", ["notes.doc", "notes", "notes.gz", "notes.parquet.gz"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(write_file, name):
    with pytest.raises(TableError, match="not a known table format") as raised:
        read_table(write_file("id\n1\n", name))
    assert "Parquet" in raised.value.fix


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(TableError, match="not a regular file"):
        read_table(tmp_path / "a.csv")


def test_a_sheet_of_a_csv_is_refused(write_file):
    with pytest.raises(TableError, match="only workbooks have sheets"):
        read_table(write_file("id\n1\n"), sheet="Export")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.xlsx"])
def test_a_file_that_may_not_be_read_is_reported(write_file, name):
    path = write_file("id\n1\n", name)
    path.chmod(0)
    with pytest.raises(TableError, match="no permission to read this file"):
        read_table(path)


def test_a_table_can_be_iterated_again_and_read_table_returns_it(write_file):
    table = read_table(write_file("id\n1\n2\n"))
    assert list(table) == list(table.rows())
    assert read_table(table) is table


def test_the_digest_is_that_of_the_bytes(write_file):
    first, second = write_file("id\n1\n", "a.csv"), write_file("id\n2\n", "b.csv")
    assert read_table(first).digest() == hashlib.sha256(b"id\n1\n").hexdigest()
    assert read_table([first, second]).digest() == hashlib.sha256(b"id\n1\nid\n2\n").hexdigest()


def test_the_digest_of_rows_in_memory_is_that_of_their_json_lines():
    table = read_table([{"b": "é", "a": 1}])
    assert (
        table.digest()
        == hashlib.sha256(
            json.dumps({"a": 1, "b": "é"}, separators=(",", ":")).encode() + b"\n"
        ).hexdigest()
    )


def test_a_file_that_vanishes_is_reported(write_file):
    path = write_file("id\n1\n")
    table = read_table(path)
    path.unlink()
    with pytest.raises(TableError, match="cannot be read: No such file"):
        list(table)
    with pytest.raises(TableError, match="cannot be read: No such file"):
        table.digest()


def test_no_control_sequence_reaches_the_terminal(write_file, tmp_path):
    path = write_file('id,"\x1b[31mred\u202e"\n1,2,3\n', "\x1b]0;owned\x07.csv")
    with pytest.raises(TableError) as raised:
        list(read_table(path))
    assert str(raised.value).isprintable()
    assert "\\x1b]0;owned\\x07.csv" in str(raised.value)
    assert read_table(write_file("a\n1\n", "\x1b.csv")).source.isprintable()
