"""Options of rows, in every form in which tables have them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.records import LETTERS, Option
from medtask.tasks.containers import parse_container
from medtask.tasks.row_options import RowOptions, read_options
from medtask.tasks.task import MultipleChoice
from medtask.tasks.text_cleaning import make_text_key

ONE = MultipleChoice(("options",))
WORDS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20
)
TEXTS = st.lists(WORDS, min_size=2, max_size=26, unique_by=make_text_key)


def list_options(cell: object) -> list[str]:
    found = read_options(ONE, {"options": cell})
    assert isinstance(found, RowOptions), found
    return [f"{option.letter} {option.text}" for option in found.options]


@pytest.mark.parametrize(
    "cell",
    [
        {"A": "five", "B": "six", "C": "seven"},
        {"C": "seven", "a": " five ", "b": "six"},
        ["five", "six", "seven"],
        ("five", "six", "seven"),
        {"first": "five", "second": "six", "third": "seven"},
        '{"A": "five", "B": "six", "C": "seven"}',
        "{'A': 'five', 'B': 'six', 'C': 'seven'}",
        "['five', 'six', 'seven']",
        "('five', 'six', 'seven')",
        "['five' 'six' 'seven']",
        "['five' \"six\"\n 'seven']",
        "array(['five', 'six', 'seven'], dtype=object)",
        "{'text': array(['five', 'six', 'seven'], dtype=object), 'label': array(['A', 'B', 'C'])}",
        "A) five B) six C) seven",
        "(A) five (B) six (C) seven",
        "Options:\nA. five\nB. six\nC. seven",
        "a: five\nb: six\nc: seven\n",
        "1. five\r\n2. six\r\n3. seven",
        "A)five\nB)six\nC)seven",
        "- five\n- six\n\n- seven",
        "five\nsix\nseven",
        ["", "five", None, "six", float("nan"), "seven"],
        {"first": "five", "none": None, "second": "six", "third": "seven"},
    ],
    ids=str,
)
def test_options_from_one_column(cell):
    assert list_options(cell) == ["A five", "B six", "C seven"]


def test_letters_of_a_mapping_stay_when_an_option_is_blank():
    assert list_options({"A": "five", "B": None, "C": "seven", "D": " "}) == ["A five", "C seven"]
    assert list_options("{'B': 'six', 'D': 'eight'}") == ["B six", "D eight"]


def test_an_invisible_option_takes_no_letter():
    cell = ["\u200b", *(f"option {number}" for number in range(26))]
    assert list_options(cell) == [f"{LETTERS[number]} option {number}" for number in range(26)]


def test_a_mark_counts_only_in_its_order():
    assert list_options("A) vitamin K B) vitamin A) in oil C) none") == [
        "A vitamin K",
        "B vitamin A) in oil",
        "C none",
    ]
    assert list_options("A. vitamin B. complex\nB. vitamin K\nC. none") == [
        "A vitamin B. complex",
        "B vitamin K",
        "C none",
    ]


def test_options_from_several_columns_keep_their_places():
    form = MultipleChoice(("opa", "opb", "opc"))
    found = read_options(form, {"opa": "five", "opb": None, "opc": 7})
    assert isinstance(found, RowOptions)
    assert found.options == (Option("A", "five"), Option("C", "7"))
    assert found.keys == {"opa": "A", "opc": "C"}
    assert found.positions == {0: "A", 2: "C"}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "the row has no options"),
        ("", "the row has no options"),
        ([], "the row has no options"),
        ({"A": ""}, "the row has no options"),
        (["five"], "the row has a single option"),
        ("five", "the row has a single option"),
        (["five", "six", " five"], "two of the row's options are the same"),
        (
            [f"option {number}" for number in range(40)],
            "the row has 40 options, and there are only 26 letters",
        ),
        (["five", ["six"]], "an option holds more than a text: the options are a list of 2 values"),
        (
            "{'A': 'five', 'B': open('x')}",
            "the options can be read neither as JSON nor as what Python prints",
        ),
        (
            "[" * 10_000 + "]" * 10_000,
            "the options can be read neither as JSON nor as what Python prints",
        ),
        (
            "{'A': 'five', 'B': " + "9" * 10_000 + "}",
            "the options can be read neither as JSON nor as what Python prints",
        ),
        ("x" * 300_000, "the options take more than 200,000 characters"),
    ],
)
def test_a_row_without_options_has_a_reason_without_text(cell, reason):
    begin = time.perf_counter()
    assert read_options(ONE, {"options": cell}) == reason
    assert time.perf_counter() - begin < 1


def test_a_row_without_the_column_is_reported():
    assert read_options(ONE, {}) == 'the row has no column "options", which should hold options'


@given(TEXTS)
def test_every_way_to_write_options_reads_the_same(texts):
    expected = [
        f"{letter} {' '.join(text.split())}" for letter, text in zip(LETTERS, texts, strict=False)
    ]
    lettered = dict(zip(LETTERS, texts, strict=False))
    for cell in (
        texts,
        lettered,
        json.dumps(texts),
        json.dumps(lettered),
        repr(texts),
        repr(lettered),
    ):
        assert list_options(cell) == expected


@given(st.text(st.characters(categories=None), max_size=200))
def test_any_cell_is_options_or_a_reason(cell):
    found = read_options(ONE, {"options": cell})
    if isinstance(found, RowOptions):
        assert 2 <= len(found.options) <= 26
        assert list(found.letters) == sorted(set(found.letters))
    else:
        assert len(cell.strip()) < 20 or cell.strip() not in found


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_containers_are_read_from_their_own_text(value):
    expected = value if isinstance(value, list | dict) else None
    assert parse_container(value) == expected
    if expected is not None:
        assert parse_container(json.dumps(value)) == parse_container(repr(value)) == value


@pytest.mark.parametrize(
    "texts", [["BB", "Bb", "bb"], ["1 mg", "1 Mg", "1 µg"], ["10²", "102"], ["pH", "Ph"]]
)
def test_options_that_differ_in_capitals_superscripts_or_prefixes_are_different(texts):
    assert list_options(texts) == [
        f"{letter} {text}" for letter, text in zip(LETTERS, texts, strict=False)
    ]


def test_positions_are_places_in_the_row_and_not_letters():
    assert read_options(ONE, {"options": ["five", None, "six"]}).positions == {0: "A", 2: "B"}
    assert read_options(ONE, {"options": {"B": "six", "A": "five"}}).positions == {1: "A", 0: "B"}


def test_a_set_of_texts_is_a_list_in_the_order_of_the_alphabet():
    assert parse_container("{'pain', 'fever', 'cough'}") == ["cough", "fever", "pain"]
