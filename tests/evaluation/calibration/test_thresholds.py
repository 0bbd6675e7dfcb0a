from __future__ import annotations

import numpy as np

from medtask.evaluation.calibration.thresholds import ThresholdFitter, assign_fold
from medtask.evaluation.statistics.resampling import FOLDS


def test_no_row_is_judged_by_a_threshold_that_saw_its_gold() -> None:
    fitter = ThresholdFitter(["a"], "f1")
    odd = 17  # the one row that would lower the threshold
    for row in range(200):
        fitter.add(
            row,
            {"a": 0.05 if row == odd else 0.9 if row % 2 else 0.4},
            ("a",) if row % 2 or row == odd else (),
        )
    fitted = fitter.finish()
    assert len(fitted.folds) == FOLDS
    assert fitted.rows == 200
    assert fitted.get_thresholds(odd, has_gold=True) == fitted.folds[assign_fold(odd)]
    assert fitted.get_thresholds(odd, has_gold=False) == fitted.overall


def test_no_row_is_judged_by_a_threshold_that_saw_gold_of_its_group() -> None:
    fitter = ThresholdFitter(["a"], "f1")
    for row in range(200):
        is_odd = row < 20  # all rows of one group, which would lower the threshold
        fitter.add(
            row,
            {"a": 0.5 if is_odd else 0.9 if row % 2 else 0.4},
            ("a",) if is_odd or row % 2 else (),
            f"group {row // 20}",
        )
    fitted = fitter.finish()
    own = [fitted.get_thresholds(row, True, "group 0")["a"] for row in range(20)]
    assert set(own) == {0.65}
    assert fitted.overall["a"] < 0.5


def test_folds_are_of_about_equal_size() -> None:
    counts = np.bincount([assign_fold(row) for row in range(5000)], minlength=FOLDS)
    assert counts.min() > 800
