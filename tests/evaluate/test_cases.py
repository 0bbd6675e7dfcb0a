"""The best few of many, and text that can be shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medtask.evaluate.cases import Shortlist, cut_text


@given(st.lists(st.floats(0, 1), unique=True), st.integers(1, 10))
def test_a_shortlist_keeps_the_largest_keys_in_order(keys: list[float], size: int) -> None:
    shortlist: Shortlist[float] = Shortlist(size)
    for key in keys:
        shortlist.offer((key,), lambda key=key: key)  # type: ignore[misc]
    assert list(shortlist.ranked()) == sorted(keys, reverse=True)[:size]


def test_what_is_not_kept_is_not_made() -> None:
    shortlist: Shortlist[str] = Shortlist(1)
    shortlist.offer((2,), lambda: "kept")
    shortlist.offer((1,), lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert shortlist.ranked() == ("kept",)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_cut_text_can_always_be_encoded(text: str) -> None:
    cut_text(text, 20).encode("utf-8")


def test_cut_text_keeps_joined_emoji_and_marks_what_cannot_be_shown() -> None:
    assert cut_text(" 👩🏽‍⚕️\x00\ud800\u202e سلام ", 600) == "👩🏽‍⚕️\ufffd\ufffd\ufffd سلام"
    assert cut_text("abcdef", 3) == "abc …"
