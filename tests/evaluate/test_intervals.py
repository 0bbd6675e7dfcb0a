"""Intervals: against published numbers, and the fast bootstrap against the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from medtask.evaluate.intervals import Estimate, bootstrap_macro_f1, estimate_share


def test_wilsons_interval_has_the_textbook_numbers() -> None:
    estimate = estimate_share(81, 263)  # Newcombe 1998, table I, method 3
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilsons_interval_of_no_errors_still_has_a_width() -> None:
    estimate = estimate_share(20, 20)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.low < 0.85


def test_a_share_of_nothing_is_no_number() -> None:
    assert estimate_share(0, 0) is None


def test_the_bootstrap_over_cells_agrees_with_one_over_rows() -> None:
    random = np.random.default_rng(1)
    gold = random.choice(4, size=200, p=[0.5, 0.3, 0.15, 0.05])
    answers = np.where(random.random(200) < 0.7, gold, random.integers(0, 5, 200))
    plain = []
    for _ in range(300):
        drawn = random.integers(0, 200, 200)
        present = np.unique(gold[drawn])
        plain.append(f1_score(gold[drawn], answers[drawn], labels=present, average="macro", zero_division=0.0))
    interval = bootstrap_macro_f1(confusion_matrix(gold, answers, labels=range(5))[:-1])
    assert interval == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.02)


def test_the_bootstrap_repeats_itself_with_the_same_seed() -> None:
    counts = np.array([[30, 5, 0], [4, 20, 1]])
    assert bootstrap_macro_f1(counts, seed=3) == bootstrap_macro_f1(counts, seed=3) != bootstrap_macro_f1(counts, seed=4)


@pytest.mark.parametrize("counts", [[[5, 0, 0], [0, 5, 0]], [[0, 5, 0], [5, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
def test_rows_that_show_no_spread_give_no_interval(counts: list[list[int]]) -> None:
    assert bootstrap_macro_f1(np.array(counts)) is None


def test_an_estimate_is_told_with_its_interval() -> None:
    assert str(Estimate(0.9134, 420, 0.8841, 0.9362)) == "0.913 (0.884-0.936)"
    assert str(Estimate(1.0, 5)) == "1.000 (no interval)"
