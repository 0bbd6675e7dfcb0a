"""Keywords of labels: words, parts of words and patterns."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.keywords import compile_keyword, match_keywords
from medtask.unicode_text import split_words


def is_found(keyword: str, text: str) -> bool:
    return match_keywords([text], {"x": [keyword]}) == [("x",)]


@pytest.mark.parametrize(
    ("keyword", "text", "found"),
    [
        ("wound infection", "A Wound  infection, late", True),
        ("wound infection", "wounds infection", False),
        ("infect*", "post-infectious state", True),
        ("infect*", "disinfected", False),
        ("*itis", "Cholecystitis.", True),
        ("*itis", "itisnt", False),
        ("*lymph*", "hemolymphatic", True),
        ("blødning", "BLØDNING", True),
        ("pa\u030a", "smerter på høyre side", True),
        ("胸痛", "患者因胸痛来诊", True),
        ("दर्द", "सिरदर्द", False),
        (r"/stage\s+(iii|iv)\b/", "Stage  IV disease", True),
        (r"/stage\s+(iii|iv)\b/", "stage II", False),
    ],
)
def test_keywords_match_whole_words_and_patterns(keyword: str, text: str, found: bool) -> None:
    assert is_found(keyword, text) is found


@given(st.text(), st.text(), st.text(min_size=1))
def test_words_of_a_text_are_found_in_it(before: str, after: str, keyword: str) -> None:
    if keyword.startswith("/") or not split_words(keyword):
        return
    assert is_found(keyword, f"{before} , {keyword} , {after}")


def test_the_label_with_most_keywords_is_first_and_ties_keep_the_order() -> None:
    rules = {"a": ["one"], "b": ["one", "two"], "c": ["one", "three"]}
    assert match_keywords(["one", "one two", "none"], rules) == [
        ("a", "b", "c"),
        ("b", "a", "c"),
        (),
    ]


@pytest.mark.parametrize("source", ["", " , ", "/(/", "/" + "a" * 2000 + "/", "/a{2,1}/"])
def test_keywords_that_cannot_match_are_not_valid(source: str) -> None:
    with pytest.raises(ValueError, match=r"has no word|is not a valid|is longer"):
        compile_keyword(source)


def test_a_pattern_that_takes_too_long_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="takes too long"):
        match_keywords(["a" * 60 + "!"] * 50, {"x": [r"/^(a|aa|a?b?)*$/"]}, seconds=0.3)
    assert time.monotonic() - start < 20
