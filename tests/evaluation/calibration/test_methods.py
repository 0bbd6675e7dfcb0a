from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from medtask.evaluation.calibration.methods import fit_bias, fit_isotonic, fit_temperature
from medtask.evaluation.calibration.transforms import Calibration
from support.drawn_probabilities import draw_probabilities

RANDOM = np.random.default_rng(20261120)
NAMES = ("a", "b", "c")
PLAIN = Calibration("none", NAMES, True, 0)


class IdentityClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its answers."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> IdentityClassifier:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


def test_the_temperature_is_scikit_learns() -> None:
    shares, gold = draw_probabilities(RANDOM, 600, overconfidence=2.5)
    shares = np.clip(shares, 1e-5, None)  # below 1e-6 ours reads them as that
    shares /= shares.sum(axis=1, keepdims=True)
    reference = CalibratedClassifierCV(
        FrozenEstimator(IdentityClassifier().fit(shares, gold)), method="temperature"
    ).fit(shares, gold)
    found = fit_temperature(shares, gold, PLAIN, prior=0.0)
    assert found.temperature == pytest.approx(2.5, rel=0.15)
    assert found.apply(shares) == pytest.approx(reference.predict_proba(shares), abs=1e-3)
    assert fit_temperature(shares, gold, PLAIN).temperature == pytest.approx(
        found.temperature, rel=0.01
    )


def test_a_bias_is_found_and_taken_off() -> None:
    shares, gold = draw_probabilities(RANDOM, 1500, overconfidence=1.5, bias=(2.0, 0.0, -1.0))
    found = fit_bias(shares, gold, PLAIN)
    assert found.temperature == pytest.approx(1.5, rel=0.15)
    assert np.subtract(found.bias, found.bias[1]) == pytest.approx([-2 / 1.5, 0, 1 / 1.5], abs=0.3)
    # No point nearby has less loss: the gradient that the optimiser gets is right.
    best = (
        log_loss(gold, found.apply(shares)) * len(gold)
        + (np.log(found.temperature) ** 2 + np.square(found.bias).sum()) / 2
    )
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 0.02:
        heat, bias = found.temperature * np.exp(step[0]), np.array(found.bias) + step[1:]
        near = softmax(np.log(shares) / heat + bias, axis=1)
        assert (
            best
            <= log_loss(gold, near) * len(gold)
            + (np.log(heat) ** 2 + np.square(bias).sum()) / 2
            + 1e-6
        )


def test_isotonic_is_scikit_learns_summed_to_one() -> None:
    shares, gold = draw_probabilities(RANDOM, 1200, overconfidence=2)
    found = fit_isotonic(shares, gold, PLAIN)
    rows = len(gold)
    columns = [
        IsotonicRegression(
            y_min=1 / (rows + 2), y_max=(rows + 1) / (rows + 2), out_of_bounds="clip"
        ).fit_transform(shares[:, k], gold == k)
        for k in range(3)
    ]
    bent = np.array(columns).T
    assert found.apply(shares) == pytest.approx(bent / bent.sum(axis=1, keepdims=True), abs=1e-6)
