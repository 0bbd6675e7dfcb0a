"""Fits the parameters of each calibration method on rows with gold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.calibration.reliability import compute_proper_scores
from medtask.evaluation.calibration.transforms import Calibration, scale_probabilities
from medtask.evaluation.statistics.intervals import MIN_PROBABILITY, FloatArray

GoldArray = NDArray[Any]  # [rows] of int, or [rows, labels] of bool


def fit_temperature(
    probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration, *, prior: float = 1.0
) -> Calibration:
    """Fits one temperature in [0.05, 20].

    ``prior`` is the weight of a standard normal prior on its logarithm; 1 counts about as much as
    one row. Without it, rows that are all right would make every answer certain.
    """
    from scipy.optimize import minimize_scalar

    zeros = np.zeros(len(uncalibrated.labels))

    def loss(log_temperature: float) -> float:
        moved = scale_probabilities(
            probabilities, float(np.exp(log_temperature)), zeros, exclusive=uncalibrated.exclusive
        )
        return _compute_total_loss(moved, gold) + prior * log_temperature**2 / 2

    found = minimize_scalar(
        loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-5}
    )
    return replace(uncalibrated, method="temperature", temperature=float(np.exp(found.x)))


def fit_bias(probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration) -> Calibration:
    """Fits a temperature and a bias for each label under standard normal priors."""
    from scipy.optimize import minimize
    from scipy.special import logit

    known = ~np.isnan(probabilities)
    if uncalibrated.exclusive:
        truth = _one_hot(gold, probabilities.shape)
        base = np.log(np.clip(np.where(known, probabilities, 1.0), MIN_PROBABILITY, 1.0))
    else:
        truth = gold & known
        base = logit(
            np.clip(np.where(known, probabilities, 0.5), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        )

    def loss(point: FloatArray) -> tuple[float, FloatArray]:
        inverse_temperature = float(np.exp(-point[0]))
        moved = np.where(
            known,
            scale_probabilities(
                probabilities, 1 / inverse_temperature, point[1:], exclusive=uncalibrated.exclusive
            ),
            0.0,
        )
        off = moved - truth
        slope = np.concatenate([[-inverse_temperature * (off * base).sum()], off.sum(axis=0)])
        return _compute_total_loss(np.where(known, moved, np.nan), gold) + float(
            point @ point
        ) / 2, slope + point

    bounds = [(np.log(0.05), np.log(20)), *[(-20.0, 20.0)] * len(uncalibrated.labels)]
    found = minimize(
        loss, np.zeros(1 + len(uncalibrated.labels)), jac=True, method="L-BFGS-B", bounds=bounds
    )
    return replace(
        uncalibrated,
        method="bias",
        temperature=float(np.exp(found.x[0])),
        bias=tuple(found.x[1:].tolist()),
    )


def fit_isotonic(
    probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration
) -> Calibration:
    """Fits an isotonic curve for each label; the identity if no row has the label."""
    from sklearn.isotonic import IsotonicRegression

    truth = _one_hot(gold, probabilities.shape) if uncalibrated.exclusive else gold
    knots = []
    for share, right in zip(probabilities.T, truth.T, strict=True):
        known = ~np.isnan(share)
        if not known.any() or np.ptp(share[known]) == 0:
            knots.append(((0.0, 1.0), (0.0, 1.0)))
            continue
        # Laplace's rule at both ends: a step at exactly 0 or 1 would be a promise that no sample
        # can make.
        rows = int(known.sum())
        curve = IsotonicRegression(
            y_min=1 / (rows + 2), y_max=(rows + 1) / (rows + 2), out_of_bounds="clip"
        )
        curve.fit(np.clip(share[known], 0, 1), right[known].astype(np.float64))
        knots.append((tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())))
    return replace(uncalibrated, method="isotonic", knots=tuple(knots))


def _one_hot(gold: GoldArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(gold[:, None] == np.arange(shape[1]))


def _compute_total_loss(probabilities: FloatArray, gold: GoldArray) -> float:
    """The minimised log loss; of independent labels their sum, not their mean."""
    losses = compute_proper_scores(probabilities, gold)["log_loss"]
    return float(
        losses.sum() if gold.ndim == 1 else (losses * (~np.isnan(probabilities)).sum(axis=1)).sum()
    )
