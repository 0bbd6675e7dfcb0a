from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.decoding.detokenizer import Detokenizer
from medtask.engines.tokens.tokenizer import HfTokenizer
from support.tiny_models import make_tokenizer

TOKENIZER = HfTokenizer(make_tokenizer("chatml"))
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def transcribe(
    text: str, stops: tuple[str, ...] = (), **more: bool
) -> tuple[Detokenizer, list[str]]:
    """A transcript of the text's tokens, and what was certain after each of them."""
    transcript = Detokenizer(TOKENIZER, stops, **more)
    settled = []
    for token in TOKENIZER.encode([text])[0]:
        transcript.add_token(token)
        settled.append(transcript.get_stable_text())
        if transcript.is_stopped:
            break
    transcript.flush()
    return transcript, settled


@given(TEXT)
def test_the_pieces_make_the_text(text: str) -> None:
    assert transcribe(text)[0].text == text


@given(st.lists(st.integers(7, 419), max_size=40))
def test_whatever_the_tokens_are_the_text_is_that_of_the_decoder(tokens: list[int]) -> None:
    transcript = Detokenizer(TOKENIZER, ())
    for token in tokens:
        transcript.add_token(token)
    transcript.flush()
    # Bytes that make no character may be decoded to more or fewer replacement characters than
    # by decoding them all at once.
    assert transcript.text.replace("\ufffd", "") == TOKENIZER.decode(tokens).replace("\ufffd", "")


@given(TEXT, st.lists(st.text("ab MRI\n", min_size=1, max_size=6), max_size=3))
def test_a_text_ends_before_the_stop_that_is_whole_first(text: str, stops: list[str]) -> None:
    transcript, settled = transcribe(text, tuple(stops))
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    assert transcript.is_stopped == bool(ends)
    assert transcript.text == text[: min(ends)[1] if ends else len(text)]
    for one, more in pairwise(settled):
        assert more.startswith(one)
    assert all(transcript.text.startswith(piece) for piece in settled)


def test_what_may_become_a_stop_text_is_withheld() -> None:
    transcript, settled = transcribe("The knee. STOX and STOP it", ("STOP",))
    assert transcript.text == "The knee. STOX and "
    assert not [piece for piece in settled if piece.endswith(("S", "ST", "STO"))]


def test_an_empty_stop_text_stops_nothing() -> None:
    assert transcribe("MRI knee", ("",))[0].text == "MRI knee"


@pytest.mark.parametrize(
    ("text", "line"),
    [("one\ntwo", "one"), ("\n\n one\ntwo", "\n\n one"), ("one", "one"), ("\n", "\n"), ("", "")],
)
def test_a_line_ends_at_its_end_but_blank_ones_are_none(text: str, line: str) -> None:
    assert transcribe(text, stop_at_newline=True)[0].text == line


def test_special_tokens_show_only_where_they_are_looked_for() -> None:
    text = "knee<start_of_turn>wrist"
    assert transcribe(text)[0].text == "kneewrist"
    assert transcribe(text, keep_special_tokens=True)[0].text == text
    assert transcribe(text, ("<start_of_turn>",), keep_special_tokens=True)[0].text == "knee"
    assert not transcribe(text, ("<start_of_turn>",))[0].is_stopped


def test_broken_bytes_do_not_keep_the_rest_waiting() -> None:
    alone = TOKENIZER.encode(["\u0645"])[0][0]
    transcript = Detokenizer(TOKENIZER, ("knee",))
    for token in [*[alone] * 20, *TOKENIZER.encode([" MRI knee"])[0]]:
        transcript.add_token(token)
    assert transcript.is_stopped
    assert transcript.text.endswith(" MRI ")
