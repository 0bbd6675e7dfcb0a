from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.evaluation.statistics.label_thresholds import fit_threshold

SHARES = np.array([0.1, 0.2, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8])
TRUTH = np.array([False, False, True, False, True, True, True, True])


def test_the_threshold_of_the_best_f1_is_between_its_neighbours() -> None:
    # From 0.4 on: 4 of 4 right, 4 of 5 found, F1 0.889; from 0.3 on: 5 of 6 right, 5 of 5 found, F1
    # 0.909.
    assert fit_threshold(SHARES, TRUTH, "f1", 0.9) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("floor", "threshold"), [(1.0, 0.25), (0.8, 0.375), (0.6, 0.5), (0.2, 0.75)]
)
def test_a_recall_floor_takes_the_highest_threshold_that_keeps_it(
    floor: float, threshold: float
) -> None:
    assert fit_threshold(SHARES, TRUTH, "recall", floor) == pytest.approx(threshold)


def test_with_too_few_gold_rows_the_threshold_stays() -> None:
    assert fit_threshold(SHARES[:6], TRUTH[:6], "f1", 0.9) == 0.5


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=10, max_size=40), st.floats(0.1, 1)
)
def test_the_recall_floor_is_kept_on_the_rows_that_were_fitted(
    rows: list[tuple[float, bool]], floor: float
) -> None:
    shares, truth = np.array([share for share, _ in rows]), np.array([right for _, right in rows])
    threshold = fit_threshold(shares, truth, "recall", floor)
    if truth.sum() >= 5:
        assert 0 <= threshold <= 1
        assert (shares[truth] >= threshold).mean() >= floor - 1e-9
