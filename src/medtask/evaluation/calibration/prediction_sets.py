"""Prediction sets with a bounded miss rate: split conformal prediction on gold rows.

The bound is an average over draws of the gold rows and of one further row. It does not hold for
each class, or for the rows with a single label, of which more may be wrong.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluation.statistics.intervals import BoolArray, FloatArray, GroupCodes
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import sample_one_per_group

ConformalMethod = Literal["lac", "crc"]


@dataclass(frozen=True, slots=True)
class PredictionSets:
    """A threshold for sets of labels; on average at most ``miss`` of the sets miss the truth.

    Attributes:
        method: "lac" if exactly one label applies; else "crc", which bounds the share of a row's
            true labels that is missed, over rows that have any.
        threshold: A set has the labels with at least this probability.
        miss: The bound.
        rows: Number of gold rows, one of each group if ``grouped``.
        grouped: Whether rows have groups.
        sizes: Gold rows by the number of labels in their set.
        rows_with_label: Number of gold rows with a true label, on which the threshold is fitted.
    """

    method: ConformalMethod
    threshold: float
    miss: float
    rows: int
    grouped: bool
    sizes: tuple[int, ...]
    rows_with_label: int

    @property
    def mean_size(self) -> float:
        return sum(size * rows for size, rows in enumerate(self.sizes)) / self.rows

    def apply(self, probabilities: FloatArray) -> BoolArray:
        """The sets [n, k] of probabilities [n, k]; NaN is in no set. A set may be empty."""
        return np.asarray(probabilities >= self.threshold - 1e-12)  # NaN compares as False

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "sizes": list(self.sizes), "mean_size": self.mean_size}


def fit_prediction_sets(
    probabilities: FloatArray,
    gold: NDArray[Any],
    *,
    miss: float = 0.1,
    groups: GroupCodes | None = None,
    seed: int = 0,
) -> PredictionSets | Refusal:
    """Fits prediction sets on gold rows.

    lac (Sadinle et al. 2019) gives the smallest sets; for independent labels crc, conformal risk
    control of the share of missed labels (Angelopoulos et al. 2024). Rows without a true label miss
    none: with them, the labels of the other rows could be missed more often than the bound.

    Args:
        probabilities: [n, k]; NaN where a label is not an option of the row.
        gold: Column of the label, [n], -1 if unknown; or truth values, [n, k].
        miss: The bound, between 0 and 1.
        groups: Group of each row, [n]; one row of each is used.
        seed: Seed of the draw of one row of each group.

    Returns:
        The sets, or a refusal with fewer than 1/miss - 1 rows that have a true label.
    """
    single = gold.ndim == 1
    if not 0 < miss < 1:
        raise UsageError(
            f"miss is {miss:g}, and must lie between 0 and 1", fix="give it as a share, such as 0.1"
        )
    drawn = np.arange(len(probabilities)) if groups is None else sample_one_per_group(groups, seed)
    known = ~np.isnan(probabilities[drawn]).all(axis=1)
    if single:
        known &= (gold[drawn] >= 0) & (gold[drawn] < probabilities.shape[1])
    used = np.asarray(probabilities, dtype=np.float64)[drawn][known]
    truth = np.asarray(gold)[drawn][known]
    has_label = np.ones(len(used), dtype=bool) if single else truth.any(axis=1)
    rows, fewest = int(has_label.sum()), math.ceil(1 / miss - 1 - 1e-9)
    if rows < fewest:
        counted = "gold rows" if single else "gold rows with a label"
        return Refusal(
            f"sets that miss at most {100 * miss:g} % need {fewest:,} {counted} or more",
            len(used),
            math.ceil(fewest * len(used) / rows) if rows else fewest,
            grouped=groups is not None,
        )
    threshold = (
        _find_conformal_threshold(used, truth, miss)
        if single
        else _find_risk_controlled_threshold(used[has_label], truth[has_label].astype(bool), miss)
    )
    if threshold is None:
        return Refusal(
            f"gold is not an option of its row in more than {100 * miss:g} % of the rows", rows
        )
    draft = PredictionSets(
        "lac" if single else "crc", threshold, miss, len(used), groups is not None, (), rows
    )
    return replace(draft, sizes=tuple(np.bincount(draft.apply(used).sum(axis=1)).tolist()))


def _find_conformal_threshold(
    probabilities: FloatArray, gold: NDArray[np.int64], miss: float
) -> float | None:
    """The probability that (n + 1)(1 - miss) of the truths reach, rounded up."""
    # A true label that is not an option is missed by every set.
    truths = np.nan_to_num(probabilities[np.arange(len(gold)), gold], nan=-np.inf)
    rank = math.ceil((len(gold) + 1) * (1 - miss) - 1e-9)
    level = float(np.sort(truths)[::-1][rank - 1])
    return None if math.isinf(level) else level


def _find_risk_controlled_threshold(
    probabilities: FloatArray, gold: BoolArray, miss: float
) -> float | None:
    """The highest threshold at which (misses of all rows + 1) / (n + 1) is at most ``miss``; None
    if no threshold has so few. Every row has a true label.
    """
    true = gold.sum(axis=1)
    row, column = np.nonzero(gold)
    # A true label that is not an option is missed by every set.
    value = np.nan_to_num(probabilities[row, column], nan=-1.0)
    order = np.argsort(value, kind="stable")
    value = value[order]
    # The lowest probability at which so many true labels are missed.
    missed = np.concatenate([[0.0], np.cumsum(1 / true[row[order]])])
    room = miss * (len(gold) + 1) - 1 + 1e-9
    allowed = min(int(np.searchsorted(missed, room, side="right")), len(value)) - 1
    return None if value[allowed] < 0 else float(value[allowed])
