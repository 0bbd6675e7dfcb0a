from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.cli import console as show


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
