from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.display import (
    escape_control_characters,
    find_closest,
    format_bytes,
    format_clock,
    format_count,
    format_duration,
    format_estimated_duration,
    format_list,
    format_name,
    format_percent,
    format_suggestion,
    format_time,
    join_alternatives,
    join_reasons,
    quote,
    suggest,
)


@given(st.text(st.characters()))
def test_escaped_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = escape_control_characters(text)
    assert not [
        char
        for char in shown
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} and char != "\n"
    ]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@pytest.mark.parametrize("text", ["Ödem, links", "دم", "👩‍⚕️", "क्‍ष", "two\nlines"])
def test_text_that_is_only_foreign_is_shown_as_it_is(text: str) -> None:
    assert escape_control_characters(text) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "under a second"),
        (1, "about 1 second"),
        (100, "about 2 minutes"),
        (9000, "about 2.5 hours"),
    ],
)
def test_a_duration_is_reported_in_the_unit_that_people_would_use(
    seconds: float, words: str
) -> None:
    assert format_estimated_duration(seconds) == words


def test_a_listing_reports_how_many_it_leaves_out() -> None:
    assert format_list(["a", "b", "c"], limit=2) == "a, b and 1 more"


@pytest.mark.parametrize(
    ("count", "text"),
    [(8.04e9, "8.0 GB"), (94_300_000, "94 MB"), (12, "12 bytes"), (54e9, "54 GB")],
)
def test_amounts_are_written_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_a_name_is_one_line_of_limited_length_without_control_characters() -> None:
    assert format_name("x" * 100) == "x" * 79 + "…"
    assert format_name("a\tb\n\x1b[31m") == "a\\tb\\n\\x1b[31m"
    assert quote("a\u202eb") == '"a\\u202eb"'


def test_a_suggestion_ignores_case_and_is_empty_without_a_similar_word() -> None:
    assert find_closest("LABLES", ["labels", "kind"]) == "labels"
    assert format_suggestion("lables", ["labels"]) == ' - did you mean "labels"?'
    assert format_suggestion("zzz", ["labels"]) == ""


def test_counts_and_alternatives() -> None:
    assert format_count(1, "row") == "1 row"
    assert format_count(41230, "row") == "41,230 rows"
    assert format_count(2, "entry", "entries") == "2 entries"
    assert format_count(41230) == "41,230"
    assert join_alternatives(["a", "b", "c"]) == "a, b or c"
    assert join_alternatives(["a"]) == "a"


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (1325, "22 min 5 s"), (11100, "3 h 5 min")]
)
def test_a_measured_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_clock_and_a_time() -> None:
    assert (format_clock(362), format_clock(3962)) == ("6:02", "1:06:02")
    assert format_time("2026-11-21T14:12:00+00:00") == "21 November 2026, 14:12 UTC"
    assert format_time("yesterday") == "yesterday"
    assert format_time("") is None


def test_a_suggestion_names_letters_that_only_look_the_same() -> None:
    assert suggest("\u0410ge", ["Age", "sex"]) == 'did you mean "Age"? (yours has Cyrillic letters)'
    assert suggest("Age", ["\u0391ge"]) == 'did you mean "\u0391ge"? (yours has Latin letters)'
    assert suggest("Agge", ["Age"]) == 'did you mean "Age"?'


def test_a_share_that_is_not_all_is_not_shown_as_all() -> None:
    shares = (0.0, 0.0004, 0.123, 0.9994, 0.9996, 1.0)
    assert [format_percent(share) for share in shares] == [
        "0.0 %",
        "< 0.1 %",
        "12.3 %",
        "99.9 %",
        "> 99.9 %",
        "100.0 %",
    ]


def test_reasons_are_joined_without_those_that_are_missing() -> None:
    assert join_reasons("too long", None, "", "cut") == "too long; cut"
    assert join_reasons(None, "") is None
