"""When one of two methods on the same rows is called better."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test
from statsmodels.stats.multitest import multipletests

from medtask.evaluation.statistics.significance import (
    adjust_p_values,
    compare_by_mcnemar,
    compare_by_randomisation,
    compare_to_guessing,
    compute_sign_test_p,
)


@pytest.mark.parametrize("seed", range(5))
def test_a_family_is_corrected_as_statsmodels_corrects_it(seed: int) -> None:
    chance = np.random.default_rng(seed)
    ps = chance.random(seed * 3) ** 3
    expected = multipletests(ps, method="holm")[1] if len(ps) else []
    assert adjust_p_values(ps.tolist()) == pytest.approx(list(expected))


def test_equal_ps_and_none_are_corrected_too() -> None:
    assert adjust_p_values([]) == []
    assert adjust_p_values([0.02, 0.02, 1.0]) == pytest.approx(
        list(multipletests([0.02, 0.02, 1.0], method="holm")[1])
    )


def test_the_comparison_is_an_exact_test_on_the_rows_that_only_one_gets_right() -> None:
    gold = ["a"] * 30
    model = ["a"] * 2 + ["b"] * 10 + ["a"] * 18
    baseline = ["b"] * 2 + ["a"] * 10 + ["a"] * 18
    found = compare_by_mcnemar(gold, baseline, model)
    assert found.p == pytest.approx(binomtest(2, 12).pvalue)
    assert found.verdict == "better"
    assert found.model == pytest.approx(2 / 3)
    assert compare_by_mcnemar(gold, model, baseline).verdict == "worse"


def test_a_row_without_an_answer_counts_against_the_model() -> None:
    assert compare_by_mcnemar(["a"] * 10, ["a"] * 10, [None] * 10).verdict == "better"


def test_equal_answers_show_no_clear_difference() -> None:
    found = compare_by_mcnemar(["a", "b"], ["a", "a"], ["a", "a"])
    assert (found.verdict, found.p) == ("no clear difference", 1.0)


def test_changes_are_judged_by_how_uneven_they_are() -> None:
    assert compute_sign_test_p(0, 0) == 1
    assert compute_sign_test_p(5, 5) == 1
    assert compute_sign_test_p(12, 2) == pytest.approx(binomtest(2, 14).pvalue)


def test_means_are_compared_as_scipy_compares_them() -> None:
    random = np.random.default_rng(5)
    model, ones = random.random(60), np.ones(60)
    baseline = np.clip(model + random.normal(0.05, 0.15, 60), 0, 1)
    found = compare_by_randomisation((baseline, ones), (model, ones))
    expected = permutation_test(
        (baseline, model),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=5000,
        rng=1,
    )
    assert found.p == pytest.approx(expected.pvalue, abs=0.015)
    assert found.model == pytest.approx(model.mean())


def test_a_ratio_weighs_its_rows() -> None:
    over, under = np.array([4.0] * 30), np.array([8.0] * 30)
    better = compare_by_randomisation((under, under), (over, under))
    assert (better.verdict, better.model) == ("better", 0.5)
    assert compare_by_randomisation((over, under), (under, under)).verdict == "worse"
    assert compare_by_randomisation((over, under), (over, under)).p == 1


def test_guessing_is_compared_with_the_rows_that_are_right() -> None:
    gold = ["A"] * 20
    assert compare_to_guessing(0.25, gold, ["A"] * 15 + [None] * 5).verdict == "worse"
    found = compare_to_guessing(0.25, gold, ["A"] * 6 + ["B"] * 14)
    assert found.verdict == "no clear difference"
    assert found.p == pytest.approx(binomtest(6, 20, 0.25).pvalue)
