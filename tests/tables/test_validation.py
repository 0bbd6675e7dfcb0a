"""Counting rows and finding ids that are missing or repeated."""

from __future__ import annotations

import tracemalloc

import pytest

from medtask.errors import TableError
from medtask.tables import validation as module
from medtask.tables.read import read_table, validate_table
from medtask.tables.validation import TableCounts


def test_rows_and_empty_rows_are_counted():
    table = read_table(
        [{"id": "1", "text": "a"}, {"id": " ", "text": None}, {"id": "2", "text": " "}]
    )
    assert validate_table(table) == TableCounts(rows=3, empty_rows=1, blank_lines=0)


@pytest.mark.parametrize("other", ["text", 5], ids=["texts", "a number"])
def test_cells_of_rows_with_texts_only_are_counted_like_those_of_other_rows(other: object) -> None:
    cells = [" ", "NA", "x" * 40_000, "m\u00c3\u00bcde", "plain"]
    table = read_table([{"id": str(row), "a": cell, "b": other} for row, cell in enumerate(cells)])
    found = validate_table(table)
    assert (found.rows, found.empty_rows, found.long_cells, found.garbled_cells) == (5, 0, 1, 1)
    assert found.missing_words == {"a": {"NA": 1}}


def test_repeated_and_missing_ids_are_reported_together():
    ids = ["1", " 1 ", 1, None, "x", "", "x", "\t", "y"]
    with pytest.raises(TableError) as raised:
        validate_table(read_table([{"id": value, "text": "private"} for value in ids]), "id")
    assert str(raised.value) == (
        'a list, id column "id": 3 rows have no id (rows 4, 6, 8); '
        '3 rows repeat the id of an earlier row: "1" (rows 1, 2, 3), "x" (rows 5, 7)'
    )


@pytest.mark.parametrize(("second", "offered"), [("1", True), ("", False)])
def test_the_option_for_repeated_ids_is_offered_for_these_only(second, offered):
    with pytest.raises(TableError) as raised:
        validate_table(read_table([{"id": "1"}, {"id": second}]), "id", can_resolve=True)
    assert ("--on-duplicate" in raised.value.fix) is offered


def test_the_first_20_faults_are_named_in_the_order_of_the_rows():
    ids = [f"n{number}" for number in range(30)]
    with pytest.raises(TableError) as raised:
        validate_table(read_table([{"id": value} for value in [*ids, *ids, *[None] * 25]]), "id")
    text = str(raised.value)
    assert "25 rows have no id (rows 61, 62, " in text
    assert text.count("80, …") == 1
    assert '30 rows repeat the id of an earlier row: "n0" (rows 1, 31), "n1" ' in text
    assert text.endswith('"n19" (rows 20, 50), …')


def test_whole_numbers_beyond_a_float_are_different_ids(write_file):
    table = read_table(
        write_file('{"id": 9007199254740992}\n{"id": 9007199254740993}\n', "a.jsonl")
    )
    assert validate_table(table, "id").rows == 2


def test_case_distinguishes_ids():
    assert validate_table(read_table([{"id": "a"}, {"id": "A"}]), "id").rows == 2


def test_different_ids_with_equal_hashes_are_accepted(monkeypatch):
    monkeypatch.setattr(module, "hash", len, raising=False)
    assert validate_table(read_table([{"id": "a"}, {"id": "b"}]), "id").rows == 2
    with pytest.raises(TableError, match='"b"'):
        validate_table(read_table([{"id": "a"}, {"id": "b"}, {"id": "b"}]), "id")


def test_an_unknown_id_column_is_reported_with_the_most_similar_name():
    with pytest.raises(TableError, match='has no column "case_it"') as raised:
        validate_table(read_table([{"case_id": 1}]), "case_it")
    assert raised.value.fix == 'did you mean "case_id"?'


def test_ids_are_shown_without_control_characters():
    with pytest.raises(TableError) as raised:
        validate_table(read_table([{"id": "\x1b[31m"}, {"id": "\x1b[31m"}]), "id")
    assert str(raised.value).isprintable()


def test_memory_is_at_most_20_bytes_a_row(write_file):
    rows = 20_000
    table = read_table(
        write_file("id,text\n" + "".join(f"case-{number},a\n" for number in range(rows)))
    )
    validate_table(table, "id")  # numpy is imported
    tracemalloc.start()
    validate_table(table, "id")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * rows + 100_000


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("på høyre side", "cp1252"),
        ("Åpning og Ödem", "cp1252"),
        ("żołądek", "latin-1"),
        ("Опухоль", "latin-1"),
        ("胃癌", "latin-1"),
        ("5 µg – 10 °C", "cp1252"),
    ],
)
def test_text_that_was_read_in_a_wrong_encoding_is_reported(text: str, encoding: str) -> None:
    garbled = text.encode("utf-8").decode(encoding)
    counts = validate_table(read_table([{"text": garbled}, {"text": text}, {"text": "plain"}]))
    assert counts.garbled_cells == 1
    assert counts.garbled_letter is not None
    wrong, letter = counts.garbled_letter
    assert wrong in garbled
    assert letter in text
    assert f'"{letter}"' in counts.describe_suspects()[0]
    assert garbled not in counts.describe_suspects()[0]


@pytest.mark.parametrize(
    "text",
    ["på høyre side", "stadium “Å” – “Ö”", "SÃO … ‘É’", "5 µg ± 1 °C", "Ménière’s – à …", "naïve"],
)
def test_text_with_accents_and_quotes_is_not_garbled(text: str) -> None:
    assert validate_table(read_table([{"text": text}])).describe_suspects() == []


@pytest.mark.parametrize("shortened", ["1.23457E+11", "1,23E+15"])
def test_ids_that_a_spreadsheet_has_shortened_are_reported_with_their_cause(shortened: str) -> None:
    rows: list[dict[str, object]] = [{"id": shortened}, {"id": "2E+1"}, {"id": "E+12"}]
    counts = validate_table(read_table(rows), "id")
    (note,) = counts.describe_suspects()
    assert note.startswith(f'a spreadsheet has shortened 1 id, such as "{shortened}"')
    with pytest.raises(TableError, match="has shortened 2 ids"):
        validate_table(read_table([*rows, {"id": shortened}]), "id")
