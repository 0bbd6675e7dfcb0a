"""CSV: each file gives exactly its table, or an error that names the line."""

from __future__ import annotations

import csv
import io
import re
import tracemalloc
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.errors import EncodingGuessWarning, TableError
from medtask.tables import encoding as decode
from medtask.tables import read_csv
from medtask.tables.header import clean_names
from medtask.tables.read import read_table, validate_table

TABLE = [{"id": "1", "text": "café; a, b"}, {"id": "2", "text": 'the "left"\nlung'}]
TEXT = 'id,text\n1,"café; a, b"\n2,"the ""left""\nlung"\n'


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (TEXT.encode("utf-8"), "UTF-8"),
        (TEXT.encode("utf-8-sig"), "UTF-8 with BOM"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("cp1252"), "not UTF-8: read as Windows-1252 (guessed)"),
    ],
)
def test_every_usual_encoding_gives_the_same_table_and_is_reported(write_file, content, note):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EncodingGuessWarning)
        table = read_table(write_file(content))
    assert list(table) == TABLE
    assert table.columns == ("id", "text")
    assert table.notes == (note, "delimiter ,")


def test_an_alphabet_that_is_not_western_is_guessed_and_reported(write_file):
    text = (
        "id,text\n1,Пациент жалуется на боль в левом колене после падения\n2,Осложнений не "
        "было и нет\n"
    )
    with pytest.warns(EncodingGuessWarning):
        table = read_table(write_file(text.encode("cp1251")))
    assert [row["text"] for row in table] == [line.split(",")[1] for line in text.splitlines()[1:]]
    assert "Windows-1251" in table.notes[0]


@pytest.mark.parametrize(
    ("content", "line", "offset"),
    [
        (b"id,text\n1,caf\xc3\xa9\n2,\xff\xc3\xa9\n", 3, 18),
        (b"id,text\r1,caf\xc3\xa9\r2,\xc3\xa9\xc3", 3, 20),
        (b"id,text\n" + b"1,\xc3\xa9\n" * 300_000 + b"2,\xff\n", 300_002, 1_500_010),
        ("id,text\n1,é\n".encode("utf-16") + b"\x00", 3, 26),
    ],
)
def test_an_undecodable_byte_is_refused_with_its_position(write_file, content, line, offset):
    with pytest.raises(
        TableError, match=f"line {line}: byte {offset:,} is not valid UTF"
    ) as raised:
        read_table(write_file(content))
    assert "save the file again as UTF-8" in raised.value.fix


@pytest.mark.parametrize(
    ("delimiter", "title"), [(",", ","), (";", ";"), ("\t", "tab"), ("|", "|")]
)
def test_the_delimiter_is_detected_and_reported(write_file, delimiter, title):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(
        [["id", "text"], ["1", "a,b;c|d\te"], ["2", "70,5"]]
    )
    table = read_table(write_file(text.getvalue()))
    assert list(table) == [{"id": "1", "text": "a,b;c|d\te"}, {"id": "2", "text": "70,5"}]
    assert table.notes[1] == f"delimiter {title}"


@pytest.mark.parametrize(
    ("delimiter", "title"), [("^", "^"), ("~", "~"), ("¬", "¬"), ("\x1f", "U+001F")]
)
def test_delimiters_of_databases_are_detected_where_they_fit_every_row(
    write_file, delimiter, title
):
    rows = [["id", "text"], ["1", "a, b; c|d"], ["2", "70,5"]]
    table = read_table(write_file("\n".join(map(delimiter.join, rows)) + "\n"))
    assert list(table) == [{"id": "1", "text": "a, b; c|d"}, {"id": "2", "text": "70,5"}]
    assert table.notes[1] == f"delimiter {title}"


def test_such_a_character_in_some_texts_is_no_delimiter(write_file):
    texts = ["text", "ca. ~3 cm", "lung", "ca. ~4 cm"]
    table = read_table(write_file("\n".join(texts) + "\n"))
    assert [row["text"] for row in table] == texts[1:]


def test_decimal_commas_do_not_outvote_the_semicolon(write_file):
    table = read_table(write_file("id;weight;height\n1;70,5;1,80\n2;81,0;1,75\n"))
    assert next(iter(table)) == {"id": "1", "weight": "70,5", "height": "1,80"}


def test_one_column_needs_no_delimiter_and_keeps_its_blank_lines_as_cells(write_file):
    table = read_table(write_file('text\nleft lung\nknee, left\n\n"a, ""b"""\n\n\n'))
    assert [row["text"] for row in table] == ["left lung", "knee, left", "", 'a, "b"']
    assert table.notes[1] == "one column, no delimiter"
    assert validate_table(table, None).blank_lines == 2


def test_a_header_of_one_cell_over_rows_of_two_is_refused(write_file):
    with pytest.raises(TableError, match="line 2: 2 cells, but the header has 1"):
        list(read_table(write_file("id\n1,a\n2,b\n")))


def test_cells_stay_strings(write_file):
    cells = ["007", "1e5", "TRUE", "NaN", "", " x ", "9007199254740993"]
    table = read_table(write_file("a,b,c,d,e,f,g\n" + ",".join(cells) + "\n"))
    assert [list(row.values()) for row in table] == [cells]


def test_newlines_of_all_kinds_may_be_mixed(write_file):
    table = read_table(write_file('a,b\r1,2\n3,4\r\n5,"6\r7\n8"\r9,10'))
    assert [tuple(row.values()) for row in table] == [
        ("1", "2"),
        ("3", "4"),
        ("5", "6\r7\n8"),
        ("9", "10"),
    ]


def test_blank_lines_are_counted_and_rows_of_empty_cells_are_rows(write_file):
    table = read_table(write_file("\n\na,b\n1,2\n\n   \n,\n3,4\n\n"))
    assert [tuple(row.values()) for row in table] == [("1", "2"), ("", ""), ("3", "4")]
    found = validate_table(table, None)
    assert (found.rows, found.empty_rows, found.blank_lines) == (3, 1, 3)


@pytest.mark.parametrize("end", [";;\n;;\n", ";;;;\n;\n", "\n;;\n  ; ;\n", ";;"])
def test_rows_of_empty_cells_at_the_end_are_not_rows(write_file, end):
    """Excel writes them for cells that have a format, or had a value."""
    table = read_table(write_file("id;text;gold\n1;a;b\n;;\n2;c;d\n" + end))
    assert [row["id"] for row in table] == ["1", "", "2"]
    assert [*table.rows_from(3)] == [{"id": "2", "text": "c", "gold": "d"}]


def test_the_index_that_pandas_writes_is_refused_with_its_remedy(write_file):
    with pytest.raises(TableError, match="no name for column 1") as raised:
        read_table(write_file(",id,text\n0,1,a\n1,2,b\n"))
    assert "to_csv(index=False)" in raised.value.fix


def test_lines_that_are_one_quoted_cell_are_refused_with_their_cause(write_file):
    """A spreadsheet writes them for a table that it has read without its delimiter."""
    content = '"id;text;gold"\n"1;""a; b"";c"\n"2;c;d"\n'
    with pytest.raises(TableError, match="line 1: each line is one cell in quotes") as raised:
        read_table(write_file(content))
    assert "remove the quotes" in raised.value.fix


@pytest.mark.parametrize(
    "content",
    ['"text"\n"a, b"\n"c, d"\n', '"left, right"\n"a, b"\n', '"a;b"\n"1;2"\n"one"\n'],
)
def test_quoted_lines_of_prose_are_a_table_of_one_column(write_file, content):
    assert len(read_table(write_file(content)).columns) == 1


@pytest.mark.parametrize("cell", ['="007"', '"=""007"""'])
def test_text_that_is_protected_from_a_spreadsheet_is_read_as_text(write_file, cell):
    table = read_table(write_file(f'="id",text\n{cell},="1"&"2"\n="",x\n'))
    assert [list(row.values()) for row in table] == [["007", '="1"&"2"'], ["", "x"]]
    assert table.columns == ("id", "text")


@pytest.mark.parametrize("header", ["id,text", "text"])
def test_the_end_of_file_of_dos_is_not_a_row(write_file, header):
    table = read_table(write_file(f"{header}\n{header}\n\x1a"))
    assert len(list(table)) == 1


def test_a_header_alone_is_a_table_without_rows(write_file):
    table = read_table(write_file("id,text\n"))
    assert table.columns == ("id", "text")
    assert list(table) == []
    assert validate_table(table, "id").rows == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "there are no column names"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 cells, but the header has 2"),
        ('a,b\n1,"x\ny"\n3\n', "line 4: 1 cell, but the header has 2"),
        ("a,b,a\n", 'line 1: the header names "a" more than once'),
        ("a,,c\n1,2,3\n", "line 1: the header has no name for column 2"),
        ("a,b\n1,x\0y\n", "line 2: NUL character"),
        ('a,b\n1,"x\n2,y\n', "line 2: the quoted cell that starts here is not closed properly"),
        ('a,b\n1,x\n"2\n","y ""\n""z\n', "line 4: the quoted cell that starts here"),
        (
            'a,b\n1,"x\n2,"y"\n',
            r"line 2: the quoted cell that starts here is not closed properly \(detected in line 3\)",  # noqa: E501 - data as it is read
        ),
        ('a,b\n1,"5" tube"\n', "line 2: the quoted cell that starts here"),
        (
            b"id,text\n1,a\0b\n2,c\n",
            "NUL character: the file is damaged, or UTF-16 without a byte order mark",
        ),
        (b"PK\x03\x04rest", "not a text file but a .xlsx file"),
    ],
)
def test_rows_that_cannot_be_read_without_loss_are_refused_with_their_line(
    write_file, content, message
):
    with pytest.raises(TableError, match=message) as raised:
        list(read_table(write_file(content)))
    assert raised.value.fix


def test_quotes_inside_a_bare_cell_are_text(write_file):
    assert [row["b"] for row in read_table(write_file('a,b\n1,5" tube\n'))] == ['5" tube']


def test_nameless_empty_columns_at_the_end_are_left_out_and_reported(write_file):
    table = read_table(write_file("a,b,,\n1,2,,\n"))
    assert list(table) == [{"a": "1", "b": "2"}]
    assert table.notes[2] == "2 empty columns without a name left out"
    with pytest.raises(TableError, match="line 3: there is a value in column 4, which has no name"):
        list(read_table(write_file("a,b,,\n1,2,,\n1,2,,x\n")))


def test_a_cell_may_be_longer_than_the_default_limit_of_the_csv_module(write_file):
    csv.field_size_limit(131_072)  # the module's own, which stays as the last caller set it
    text = "x" * 2_000_000
    assert [row["b"] == text for row in read_table(write_file(f'a,b\n1,"{text}"\n'))] == [True]


def test_a_cell_or_line_without_end_is_refused(write_file, monkeypatch):
    monkeypatch.setattr(read_csv, "MAX_CELL_LENGTH", 1000)
    with pytest.raises(TableError, match="line 2: a cell of more than 1,000 characters") as raised:
        list(read_table(write_file('a,b\n1,"' + "x\n" * 1000)))
    assert "close the quote that starts here" in raised.value.fix
    monkeypatch.setattr(decode, "MAX_CELL_LENGTH", 1000)
    with pytest.raises(TableError, match="line 2: longer than 1,000 characters"):
        list(read_table(write_file("a,b\n1," + "x" * 1000)))


def test_memory_does_not_grow_with_rows(write_file):
    table = read_table(write_file("id,text\n" + "1,some words about a knee\n" * 20_000))
    tracemalloc.start()
    assert sum(1 for _ in table) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


names = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    min_size=2,
    max_size=4,
)
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def test_tabs_in_the_quoted_cells_of_a_header_are_no_delimiters(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text('"0","1\t\t"\r\n')
    assert read_table(path).columns == ("0", "1")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_the_csv_module_writes_is_read_back_exactly(tmp_path_factory, data):
    header = data.draw(
        names.filter(lambda drawn: len(set(filter(None, clean_names(drawn)))) == len(drawn))
    )
    rows = data.draw(
        st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=5)
    )
    path = tmp_path_factory.mktemp("csv") / "notes.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    table = read_table(path)
    assert table.columns == clean_names(header)
    while len(header) > 1 and rows and not "".join(rows[-1]).strip():
        del rows[-1]
    assert [list(row.values()) for row in table] == rows


@pytest.mark.filterwarnings("ignore::medtask.errors.EncodingGuessWarning")
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_table_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("csv") / "notes.csv"
    path.write_bytes(content)
    try:
        list(read_table(path))
    except TableError as error:
        assert error.fix


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,text\n1,Blære\n", False),
        ("id;text\n1;Blære\n", True),
        (b"\xef\xbb\xbfid,text\n1,x\n", True),
        ("id,text\n1,fjerning av blære på høyre side\n".encode("cp1252"), True),
    ],
)
@pytest.mark.filterwarnings("ignore::medtask.errors.EncodingGuessWarning")
def test_files_that_a_spreadsheet_wrote_are_recognised(write_file, content, expected):
    assert read_table(write_file(content)).from_spreadsheet is expected


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        ("<!DOCTYPE html>\n<html><body>Log in</body></html>\n", "a web page", "save it as CSV"),
        ("\ufeff\n<table><tr><td>id</td></tr></table>", "a web page", "save it as CSV"),
        ('[{"id": 1, "text": "a"}]', "JSON", ".json"),
        ('[\n  {\n    "id": 1\n  }\n]\n', "JSON", ".json"),
        ('{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n', "JSON", ".jsonl"),
        ("{\\rtf1\\ansi id}", "RTF", "word processor"),
    ],
)
def test_a_file_of_another_format_is_refused_with_its_own_remedy(write_file, content, kind, remedy):
    with pytest.raises(TableError, match=re.escape(kind)) as raised:
        read_table(write_file(content))
    assert remedy in raised.value.fix


@pytest.mark.parametrize("header", ['"{""id"": 1}"', "{id}", "<5 years", "[id]", "{a:b}"])
def test_unusual_names_of_columns_are_no_other_format(write_file, header):
    assert len(read_table(write_file(f"{header},text\n1,x\n")).columns) == 2
