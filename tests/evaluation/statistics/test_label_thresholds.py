from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from medtask.evaluation.statistics.label_thresholds import (
    _compute_precision_and_recall,
    fit_threshold,
    fit_thresholds,
)

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


@given(
    st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.25, 0.5]), st.booleans()), min_size=2)
)
def test_precision_and_recall_are_those_of_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    shares, truth = np.array([share for share, _ in rows]), np.array([right for _, right in rows])
    truth[0] = True
    precision, recall, thresholds = precision_recall_curve(truth, shares)
    found = _compute_precision_and_recall(shares, truth)
    for one, other in zip(found, (precision[:-1], recall[:-1], thresholds), strict=True):
        assert one.tolist() == other.tolist()


def test_thresholds_of_rare_labels_are_moved_towards_the_common_one() -> None:
    random = np.random.default_rng(0)
    truth = random.random((400, 2)) < [0.5, 0.03]
    probabilities = np.clip(0.3 * truth + random.random((400, 2)) * 0.6, 0, 1)
    probabilities[truth[:, 1], 1] = 0.9  # the own optimum is just below 0.9
    common = fit_threshold(probabilities.ravel(), truth.ravel(), "f1", 0.9)
    own = [fit_threshold(probabilities[:, label], truth[:, label], "f1", 0.9) for label in (0, 1)]
    fitted = fit_thresholds(probabilities, truth)
    for threshold, alone in zip(fitted, own, strict=True):
        assert min(alone, common) <= threshold <= max(alone, common)
    assert abs(fitted[1] - common) < abs(own[1] - common) / 2
    assert abs(fitted[0] - own[0]) < abs(own[0] - common) / 2 + 1e-9
    assert fit_thresholds(probabilities, truth, "recall", 0.8) == [
        fit_threshold(probabilities[:, label], truth[:, label], "recall", 0.8) for label in (0, 1)
    ]
