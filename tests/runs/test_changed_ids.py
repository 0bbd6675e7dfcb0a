"""Rows are found again although a spreadsheet changed their ids, and never the wrong ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.runs.changed_ids import match_changed_ids


def make_known(ids: list[str]) -> dict[str, dict[str, object]]:
    return {name: {"text": f"note about case {name} of ward {len(name)}"} for name in ids}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0001", "1"),
        ("0001", "1.0"),
        ("1.10", "1,1"),
        ("1E5", "100000"),
        ("1E5", "1,00E+05"),
        ("123456789012345678", "1.23457E+17"),
        ("123456789012345678", "1,23457E+17"),
        ("+47", "47"),
    ],
)
def test_the_id_of_the_same_number_is_found(before: str, after: str) -> None:
    found = match_changed_ids([(after, {})], {before: {}, "0007": {}, "x": {}})
    assert found.names == (before,)
    assert found.notes == (
        f'1 id written differently, as after saving in a spreadsheet ("{before}" and "{after}"): '
        "the rows were found by value (1)",
    )


def test_ids_that_are_known_are_taken_as_they_are() -> None:
    found = match_changed_ids([("1", {}), ("01", {}), ("'=a", {})], {"01": {}, "1": {}, "=a": {}})
    assert found.names == ("1", "01", "=a")
    assert not found.notes


def test_an_id_that_fits_several_rows_is_found_by_other_columns_or_not_at_all() -> None:
    known = make_known(["01", "001", "x"])
    assert match_changed_ids([("1", {})], known).names == (None,)
    assert match_changed_ids([("1", known["001"])], known).names == ("001",)


def test_a_row_with_another_text_is_not_found_by_its_number() -> None:
    known = {"0001": {"text": "stent in the bile duct"}, "0002": {"text": "biopsy"}}
    rows = [("1", {"text": "total knee replacement"})]
    assert match_changed_ids(rows, known).names == (None,)


def test_dates_are_found_by_the_text_and_letters_that_were_lost_by_the_place() -> None:
    known = make_known(["1-2", "3-4", "5-6"])
    rows = [
        ("02.jan", {"text": "note about case ?-2 of ward 3"}),
        *((name, known[name]) for name in ("3-4",)),
        ("06.mai", known["5-6"]),
    ]
    found = match_changed_ids(rows, known, in_order=True)
    assert found.names == ("1-2", "3-4", "5-6")
    assert "by text of other columns (1), by place in the file (1)" in found.notes[0]
    assert match_changed_ids(rows, known).names == (None, "3-4", "5-6")


def test_other_ids_with_the_same_text_are_reported_as_taken_for_the_same_rows() -> None:
    known = {"site1-a": {"text": "no finding"}, "site1-b": {"text": "fracture"}}
    found = match_changed_ids([("site2-x", {"text": "no finding"})], known)
    assert found.names == ("site1-a",)
    assert found.notes == (
        '1 id that differs is taken for the same row ("site1-a" and "site2-x"): '
        "the rows were found by text of other columns (1)",
    )


def test_places_count_only_where_texts_agree() -> None:
    known = make_known(["a-1", "a-2"])
    rows = [("x", {"text": "another text"}), ("y", {})]
    assert match_changed_ids(rows, known, in_order=True).names == (None, None)


@given(
    ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True),
    width=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_padded_numbers_are_found_in_any_order(ids: list[int], width: int, seed: int) -> None:
    known = make_known([f"{number:0{width}}" for number in ids])
    rows = [(str(int(name)), cells) for name, cells in known.items()]
    random.Random(seed).shuffle(rows)
    found = match_changed_ids(rows, known)
    assert [int(name or -1) for name in found.names] == [int(name) for name, _ in rows]


@pytest.mark.parametrize(
    "text", ["prøve nr 7 på høyre side", "zabieg łagodzący, guz żołądka", "Опухоль желудка удалена"]
)
def test_text_that_was_read_in_a_wrong_encoding_does_not_hide_the_row(text: str) -> None:
    wrong = text.encode("utf-8").decode("latin-1")
    known = {"0007": {"text": text}, "0008": {"text": f"{text} again, and further words"}}
    assert match_changed_ids([("7", {"text": wrong})], known).names == ("0007",)


def test_known_ids_count_only_beside_their_own_texts_if_they_are_verified() -> None:
    known = make_known(["1", "2", "3"])
    swapped = [("1", known["2"]), ("2", known["1"]), ("3", known["3"])]
    assert match_changed_ids(swapped, known).names == ("1", "2", "3")
    assert match_changed_ids(swapped, known, verified=True).names == ("2", "1", "3")
    other = [("1", {"text": "a text that no row has"}), ("2", {})]
    assert match_changed_ids(other, known, verified=True).names == (None, "2")


def test_an_id_that_may_be_another_one_is_reported() -> None:
    known = make_known(["01", "001", "x"])
    assert match_changed_ids([("1", {}), ("y", {})], known).unclear == ("1", "001")
    assert match_changed_ids([("y", {}), ("x", {})], known).unclear is None


def test_a_text_that_a_workbook_has_cut_is_the_same_text() -> None:
    text = "word " * 10_000
    cut = f"{text[:32_000]}[cut: 50,000 characters]"
    known = {"1": {"text": text}}
    assert match_changed_ids([("1", {"text": cut})], known, verified=True).names == ("1",)
