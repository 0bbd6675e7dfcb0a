from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.cli import console as show


@given(st.text(st.characters()))
def test_escaped_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = show.escape_control_characters(text)
    assert not [
        char
        for char in shown
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} and char != "\n"
    ]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@pytest.mark.parametrize("text", ["Ödem, links", "دم", "👩‍⚕️", "क्‍ष", "two\nlines"])
def test_text_that_is_only_foreign_is_shown_as_it_is(text: str) -> None:
    assert show.escape_control_characters(text) == text


def test_an_escape_sequence_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_line("id \x1b[31mred\x1b]0;title\x07")
    assert capsys.readouterr().out == "id \\x1b[31mred\\x1b]0;title\\x07\n"


def test_markup_and_emoji_codes_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_line("[bold]label[/bold] :smile: [link=http://x]y[/link]")
    assert capsys.readouterr().out == "[bold]label[/bold] :smile: [link=http://x]y[/link]\n"


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_line("word " * 100)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_fact_of_two_lines_stays_in_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_fact("plan", "one\ntwo")
    assert capsys.readouterr().out == "  plan        one\n              two\n"


def test_exact_text_keeps_tabs_and_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_verbatim("a\tb\n  c\x1b")
    assert capsys.readouterr().out == "a\tb\n  c\\x1b\n"


@given(st.text(st.characters()))
def test_a_json_document_survives_any_text_and_is_plain_ascii(text: str) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        show.print_json({"text": text})
    assert out.getvalue().isascii()
    assert json.loads(out.getvalue()) == {"text": text}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "under a second"),
        (1, "about 1 second"),
        (100, "about 2 minutes"),
        (9000, "about 2.5 hours"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_people_would_use(seconds: float, words: str) -> None:
    assert show.format_duration(seconds) == words


def test_a_listing_says_how_many_it_leaves_out() -> None:
    assert show.format_list(["a", "b", "c"], limit=2) == "a, b and 1 more"
