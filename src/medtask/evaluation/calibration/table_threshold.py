"""The threshold above which answers of a second model replace those of a first, for one table.

At most ``allowed`` rows of the table may get an answer that differs from the first model's. The
first model answers a simple random sample of the table's remaining rows. Rows are taken from the
most confident one down, and the threshold is where the ``k + 1``-th row of the sample with another
answer is met.

Guarantee. Let the rows on which the models differ be ordered by the second model's confidence. If
more than ``allowed`` unsampled ones lie above the threshold, then the first ``allowed + k + 1`` of
them hold at most ``k`` sampled rows, which has a hypergeometric probability. ``k`` is the largest
number for which it is at most ``risk``. With fewer such rows the probability is lower: leaving out
one row lowers both counts by one. Nothing is assumed about the rows, the models or the confidence:
the only randomness is the draw of the sample, from a table whose size is known.

This is fixed-sequence testing (Angelopoulos et al. 2021, "Learn then Test") of a loss that can only
grow as the threshold sinks (Angelopoulos et al. 2022, "Conformal Risk Control"), so that one
sequence is enough. `acceptance` bounds another quantity: the error among the accepted rows, for new
rows from the same source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medtask.evaluation.statistics.intervals import BoolArray, FloatArray

_SAMPLE_SIZES = 16  # sizes between the bounds that are compared
_QUANTILES = (np.arange(20) + 0.5) / 20


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """The sample size that is predicted to leave the fewest rows to the first model.

    Attributes:
        size: Number of rows of the sample; 0 if no size is predicted to accept a row.
        accepted: The share of the unsampled rows that is predicted to be accepted.
    """

    size: int
    accepted: float


def compute_max_differences(population: int, sample: int, allowed: int, risk: float) -> int:
    """How many rows of the sample may differ above the threshold; -1 if nothing can be accepted.

    Args:
        population: Number of rows that the sample is drawn from.
        sample: Number of rows of the sample.
        allowed: Number of unsampled rows that may differ.
        risk: Probability with which more of them may differ, over draws of the sample.
    """
    from scipy.stats import hypergeom

    low, high = -1, min(sample, population - allowed - 1)
    if high < 0:  # no more than the allowed rows can differ
        return sample
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(middle, population, allowed + middle + 1, sample) <= risk:
            low = middle
        else:
            high = middle - 1
    return low


def find_table_threshold(
    confidence: FloatArray, differs: BoolArray, max_differences: int
) -> float | None:
    """The confidence above which answers are accepted; None if none is.

    Args:
        confidence: Confidence of the second model, for each row of the sample.
        differs: Whether its answer differs from the first model's.
        max_differences: See `compute_max_differences`.
    """
    if max_differences < 0:
        return None
    found = np.sort(np.asarray(confidence)[np.asarray(differs, dtype=bool)])[::-1]
    return float(found[max_differences]) if len(found) > max_differences else -1.0


def plan_sample(
    confidence: FloatArray, differs: BoolArray, population: int, allowed: int, risk: float
) -> SamplePlan:
    """Choose a sample size by predictions for other rows of the same table.

    Args:
        confidence: Confidence of the second model in held-out rows that it has not learnt.
        differs: Whether its answer differs from the first model's.
        population: See `compute_max_differences`, as the other arguments.
    """
    from scipy.stats import beta

    order = np.argsort(-np.asarray(confidence), kind="stable")
    errors = np.cumsum(np.asarray(differs, dtype=bool)[order])
    if not len(errors):
        return SamplePlan(0, 0.0)
    best, best_asked = SamplePlan(0, 0.0), float(population)
    for size in np.unique(np.geomspace(20, max(20, population // 2), _SAMPLE_SIZES).astype(int)):
        most = compute_max_differences(population, int(size), allowed, risk)
        if most < 0:
            continue
        # The share of differing rows at which the threshold falls, over draws of the sample.
        shares = beta.ppf(_QUANTILES, most + 1, size - most)
        accepted = float(
            np.searchsorted(errors, np.floor(shares * len(errors)), side="right").mean()
        ) / len(errors)
        asked = size + (1 - accepted) * (population - size)
        if accepted > 0 and asked < best_asked:
            best, best_asked = SamplePlan(int(size), accepted), asked
    return best
