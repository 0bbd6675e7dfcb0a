from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from medtask.evaluation.calibration.table_threshold import (
    compute_max_differences,
    find_table_threshold,
    plan_sample,
)


@settings(max_examples=60, deadline=None)
@given(
    population=st.integers(10, 3_000),
    shares=st.tuples(st.floats(0.01, 0.9), st.floats(0.0, 0.3)),
    risk=st.sampled_from([0.05, 0.1, 0.3]),
)
def test_the_number_is_the_largest_with_at_most_the_risk(
    population: int, shares: tuple[float, float], risk: float
) -> None:
    sample, allowed = max(1, int(shares[0] * population)), int(shares[1] * population)
    most = compute_max_differences(population, sample, allowed, risk)
    for number in range(-1, sample + 1):
        if allowed + number + 1 > population:
            break
        chance = hypergeom.cdf(number, population, allowed + number + 1, sample)
        assert (chance <= risk + 1e-12) == (number <= most)


@pytest.mark.parametrize("share_differs", [0.02, 0.05, 0.3])
def test_more_than_the_allowed_rows_differ_in_at_most_the_risk(share_differs: float) -> None:
    random = np.random.default_rng(3)
    population, sample, allowed, risk = 2_000, 300, 40, 0.1
    confidence = random.random(population)
    differs = random.random(population) < share_differs * 2 * (1 - confidence)
    most = compute_max_differences(population, sample, allowed, risk)
    broken = 0
    for _ in range(1_000):
        chosen = np.zeros(population, dtype=bool)
        chosen[random.choice(population, sample, replace=False)] = True
        threshold = find_table_threshold(confidence[chosen], differs[chosen], most)
        assert threshold is not None
        broken += int((differs & ~chosen & (confidence > threshold)).sum()) > allowed
    # Three standard errors of 1,000 draws.
    assert broken / 1_000 <= risk + 3 * (risk * (1 - risk) / 1_000) ** 0.5
    if share_differs == 0.3:
        assert broken > 30  # the bound is not far from exact


def test_rows_with_the_confidence_of_the_last_difference_are_not_accepted() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.7])
    differs = np.array([False, True, False, True, False])
    assert find_table_threshold(confidence, differs, 1) == 0.8
    assert find_table_threshold(confidence, differs, 0) == 0.8
    assert find_table_threshold(confidence, differs, 2) == -1.0
    assert find_table_threshold(confidence, differs, -1) is None


def test_nothing_is_accepted_if_the_sample_cannot_show_it() -> None:
    assert compute_max_differences(1_000, 10, 5, 0.1) == -1


def test_all_rows_are_accepted_if_all_of_them_may_differ() -> None:
    most = compute_max_differences(50, 10, 50, 0.1)
    assert find_table_threshold(np.full(10, 0.5), np.full(10, True), most) == -1.0


def test_the_sample_is_planned_by_the_rows_that_are_left() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(1_000)
    good = random.random(1_000) < 0.2 * (1 - confidence) ** 3
    plan = plan_sample(confidence, good, 10_000, 200, 0.1)
    assert 100 < plan.size < 3_000
    assert plan.accepted > 0.5
    useless = plan_sample(confidence, np.full(1_000, True), 10_000, 200, 0.1)
    assert useless.accepted < 0.1
    assert plan_sample(np.zeros(0), np.zeros(0, dtype=bool), 10_000, 200, 0.1).size == 0
