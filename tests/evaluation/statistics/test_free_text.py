"""Metrics of generated text, compared with expected values."""

from __future__ import annotations

import pytest

from medtask.evaluation.statistics.free_text import (
    compute_free_text_metrics,
    compute_token_f1_terms,
)

GOLD = ["old burn of left hand", "wound", "none seen", "old scar"]
ANSWERS = ["burn of hand", "wound", None, "new cut"]
# Words shared, of 5 and 3: precision 3/3, recall 3/5.
F1 = [2 * 1 * 0.6 / 1.6, 1.0, 0.0, 0.0]


def test_a_row_without_an_answer_counts_as_zero_and_not_among_the_answered() -> None:
    found = compute_free_text_metrics(GOLD, ANSWERS, total_rows=9, unanswered=1)
    assert found is not None
    assert found.token_f1.value == pytest.approx(sum(F1) / 4)
    assert found.token_f1.n == 4
    assert found.exact_match.value == pytest.approx(1 / 4)
    assert found.token_f1_answered is not None
    assert found.token_f1_answered.value == pytest.approx(sum(F1) / 3)
    assert found.token_f1_answered.n == 3
    assert found.exact_answered is not None
    assert found.exact_answered.value == pytest.approx(1 / 3)
    assert (found.of, found.without) == (9, 1)


def test_rouge_l_is_that_of_the_longest_common_sequence() -> None:
    found = compute_free_text_metrics(["one two three four"], ["two one three four"])
    assert found is not None
    assert found.rouge_l.value == pytest.approx(0.75)  # "two three four", or "one three four"
    assert found.token_f1.value == 1.0


def test_rows_of_one_group_are_one_unit() -> None:
    found = compute_free_text_metrics(GOLD, ANSWERS, ["P1", "P1", "P2", None])
    assert found is not None
    assert found.groups == 3
    assert found.token_f1.value == pytest.approx(sum(F1) / 4)


def test_without_rows_there_are_no_metrics() -> None:
    assert compute_free_text_metrics([], []) is None


def test_terms_of_token_f1_are_one_per_row() -> None:
    shares, ones = compute_token_f1_terms(GOLD, ANSWERS)
    assert shares.tolist() == pytest.approx(F1)
    assert ones.tolist() == [1.0] * 4
