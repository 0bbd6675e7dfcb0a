"""Shared words, compared with expected values and with reference implementations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.evaluation.statistics.text_overlap import (
    compute_rouge_l,
    compute_token_f1,
    is_exact_match,
)

WORDS = st.lists(st.sampled_from(["eye", "pressure", "nerve", "loss", "vision"]), max_size=15).map(
    " ".join
)


def test_token_f1_counts_words_as_often_as_both_have_them() -> None:
    assert compute_token_f1(
        "The raised pressure, in the eye!", "pressure pressure of an eye"
    ) == pytest.approx(2 * 2 / (4 + 4))
    assert compute_token_f1("Raised pressure", "raised PRESSURE.") == 1
    assert compute_token_f1("", "") == compute_token_f1("the", "a") == 1
    assert compute_token_f1("glaucoma", "") == 0


def test_token_f1_knows_other_scripts() -> None:
    assert compute_token_f1("ارتفاع ضغط العين", "ضغط العين") == pytest.approx(4 / 5)


def test_chinese_and_japanese_texts_share_characters() -> None:
    assert compute_token_f1("术后恢复良好", "术后恢复好") == pytest.approx(2 * 5 / (6 + 5))
    assert compute_rouge_l("炎症が見られる", "炎症はみられる") == pytest.approx(2 * 5 / (7 + 7))


def test_the_same_text_in_two_normal_forms_is_an_exact_match() -> None:
    composed, decomposed = "Ødem på én fot", "Ødem pa\u030a e\u0301n fot"
    assert is_exact_match(composed, decomposed)
    assert compute_token_f1(composed, decomposed) == compute_rouge_l(composed, decomposed) == 1


def test_vowel_signs_are_parts_of_words() -> None:
    assert compute_token_f1("सिर में दर्द", "पेट में दर्द") == pytest.approx(2 * 2 / (3 + 3))


def test_exact_match_is_the_same_words_in_the_same_order() -> None:
    assert is_exact_match("The raised pressure, in an eye!", "raised PRESSURE in eye")
    assert is_exact_match("", "the")
    assert not is_exact_match("pressure in eye", "eye in pressure")
    assert not is_exact_match("eye", "")


@given(WORDS, WORDS)
def test_an_exact_match_has_a_token_f1_of_one(one: str, other: str) -> None:
    assert is_exact_match(one, one)
    assert not is_exact_match(one, other) or compute_token_f1(one, other) == 1


def test_rouge_l_wants_the_same_order() -> None:
    # Lin 2004, S1 and S2.
    assert compute_rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(
        6 / 8
    )
    # S1 and S3.
    assert compute_rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(
        4 / 8
    )
    assert compute_rouge_l("", "word") == 0


@given(WORDS, WORDS)
def test_rouge_l_equals_the_table_of_the_textbook(one: str, other: str) -> None:
    left, right = one.split(), other.split()
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    total = len(left) + len(right)
    assert compute_rouge_l(one, other) == pytest.approx(2 * table[-1][-1] / total if total else 1)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_equals_googles(one: str, other: str) -> None:
    scorer = pytest.importorskip(
        "rouge_score.rouge_scorer", reason="rouge_score comes with the development tools only"
    )
    if one and other:
        assert compute_rouge_l(one, other) == pytest.approx(
            scorer.RougeScorer(["rougeL"]).score(one, other)["rougeL"].fmeasure
        )


def test_only_so_many_words_are_compared() -> None:
    assert compute_rouge_l("word " * 100_000, "word " * 100_000) == 1
