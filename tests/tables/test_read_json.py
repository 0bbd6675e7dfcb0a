"""JSON Lines and JSON: the union of all keys, line numbers in errors, no text of a record in
them.
"""

from __future__ import annotations

import json

import pytest

from medtask.errors import TableError
from medtask.tables import read_json
from medtask.tables.read import read_table, validate_table


def test_the_columns_are_the_keys_of_all_lines_in_order_of_appearance(write_file):
    table = read_table(
        write_file('{"id": 1, "a": "x"}\n\n{"id": 2, "b": {"c": [1, null]}}\r\n', "notes.jsonl")
    )
    assert table.columns == ("id", "a", "b")
    assert list(table) == [
        {"id": 1, "a": "x", "b": None},
        {"id": 2, "a": None, "b": {"c": [1, None]}},
    ]
    assert validate_table(table, "id").blank_lines == 1


def test_values_keep_their_types_and_nan_is_missing(write_file):
    table = read_table(
        write_file(
            '{"big": 9007199254740993, "f": 1.5, "t": true, "n": NaN, "i": Infinity}\n',
            "notes.ndjson",
        )
    )
    assert list(table) == [
        {"big": 9007199254740993, "f": 1.5, "t": True, "n": None, "i": float("inf")}
    ]


def test_line_separators_of_unicode_do_not_end_a_line(write_file):
    (row,) = read_table(write_file('{"a": "x\u2028y\u0085z"}\n', "notes.jsonl"))
    assert row == {"a": "x\u2028y\u0085z"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": private}', "not valid JSON: Expecting value"),
        ('["private"]', "a JSON list instead of an object"),
        ("1", "a JSON number instead of an object"),
        ('{"a": 1, "a": "private"}', "an object has the same key twice"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "a number with too many digits"),
    ],
)
def test_a_faulty_line_is_named_and_not_quoted(write_file, line, message):
    with pytest.raises(TableError, match=f"line 3: .*{message}") as raised:
        read_table(write_file(f'{{"a": 1}}\n\n{line}\n', "notes.jsonl"))
    assert "private" not in str(raised.value)


ROWS = [{"id": "1", "text": "café"}, {"id": "2", "text": None}]


@pytest.mark.parametrize(
    "content", [ROWS, {"id": ["1", "2"], "text": ["café", None]}, [ROWS[0], {"id": "2"}]]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_a_list_of_objects_or_an_object_of_columns(write_file, content, encoding):
    table = read_table(
        write_file(json.dumps(content, ensure_ascii=False, indent=1).encode(encoding), "notes.json")
    )
    assert list(table) == list(table) == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 2}\n', "not a JSON table: Extra data"),
        ('{"a": 1}', "a JSON object instead of a list of objects"),
        ('{"a": [1], "b": [1, 2]}', "its columns are of different lengths, 1 to 2"),
        ('[{"a": 1}, 2]', "item 2 of the list is a JSON number"),
        ("[]", "there are no columns"),
        ('[{"": 1}]', "a column has no name"),
    ],
)
def test_json_that_is_not_a_table_is_refused(write_file, content, message):
    with pytest.raises(TableError, match=message):
        read_table(write_file(content, "notes.json"))


def test_json_that_is_too_large_to_load_is_refused(write_file, monkeypatch):
    monkeypatch.setattr(read_json, "MAX_JSON_BYTES", 100)
    with pytest.raises(TableError, match="of JSON, which cannot be read in parts") as raised:
        read_table(write_file(json.dumps([{"a": "x" * 100}]), "notes.json"))
    assert "JSON Lines" in raised.value.fix


@pytest.mark.parametrize(
    "beside", ["", '"exported": "2026-01-02", "count": 2, "meta": {"a": [1]}, ']
)
def test_rows_in_an_object_are_read(write_file, beside):
    content = f'{{{beside}"data": [{{"id": 1, "a": [1]}}, {{"id": 2}}]}}'
    table = read_table(write_file(content, "notes.json"))
    assert list(table) == [{"id": 1, "a": [1]}, {"id": 2, "a": None}]


def test_the_columns_of_pandas_are_refused_with_the_right_form(write_file):
    with pytest.raises(TableError, match="not a JSON table") as raised:
        read_table(write_file('{"id": {"0": 1}, "text": {"0": "a"}}', "notes.json"))
    assert 'orient="records"' in raised.value.fix
