"""Probabilities of a model whose calibration is known, with gold."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax


def draw_probabilities(
    random: np.random.Generator,
    n: int,
    overconfidence: float = 1.0,
    bias: tuple[float, ...] = (0, 0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of three labels for ``n`` rows, and the gold of each row.

    The logits of the true probabilities are multiplied by ``overconfidence``, and ``bias`` is
    added to them.
    """
    logits = random.normal(0, 1.5, (n, 3))
    gold = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    return softmax(overconfidence * logits + np.array(bias), axis=1), gold
