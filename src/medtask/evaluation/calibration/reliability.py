"""Calibration of confidences: calibration error, proper scores, and error by coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.intervals import (
    MIN_PROBABILITY,
    BoolArray,
    FloatArray,
    GroupCodes,
    Metric,
    bootstrap_interval,
    estimate_proportion,
    estimate_ratio,
)

N_BINS = 10
MAX_CURVE_POINTS = 100  # maximum number of points of a curve
_N_SIMULATIONS = 1000
_MAX_CELLS = 2000


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows with a confidence in [low, high): mean confidence and share of right rows."""

    low: float
    high: float
    confidence: float
    right: Metric


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """Error among accepted rows by coverage, at most 100 points.

    ``aurc`` is the area under the curve (Geifman and El-Yaniv 2017): the mean error over coverages.
    """

    coverage: tuple[float, ...]
    thresholds: tuple[float, ...]
    error: tuple[Metric, ...]
    aurc: float

    def to_json(self) -> dict[str, object]:
        points = zip(self.coverage, self.thresholds, self.error, strict=True)
        return {
            "aurc": self.aurc,
            "points": [
                {"coverage": share, "threshold": at, "error": asdict(error)}
                for share, at, error in points
            ],
        }


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of confidences.

    Attributes:
        rows: Number of rows with a confidence.
        rows_without_confidence: Number of rows without one.
        bins: Ten equal bins.
        mean_confidence: Mean confidence.
        accuracy: Share of right rows.
        ece: Expected calibration error over the bins. It is never 0 on few rows.
        ece_by_chance: Mean of the error that a perfectly calibrated model would have.
        ece_chance_limit: Its 95th percentile.
        p: Probability of an error this large under perfect calibration.
        brier: Brier score of the confidence (0.25 for a constant 0.5).
        log_loss: Log loss of the confidence (0.69 for a constant 0.5).
        distribution_scores: Scores of the whole distribution, if known.
        risk_curve: Error at every coverage.
        grouped: Whether rows have groups. The intervals of bins and of the risk curve take rows as
            independent.
    """

    rows: int
    rows_without_confidence: int
    bins: tuple[ReliabilityBin, ...]
    mean_confidence: float
    accuracy: Metric
    ece: Metric
    ece_by_chance: float
    ece_chance_limit: float
    p: float
    brier: Metric
    log_loss: Metric
    distribution_scores: Mapping[str, Metric]
    risk_curve: RiskCurve
    grouped: bool

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text."""
        return {
            "rows": self.rows,
            "without_confidence": self.rows_without_confidence,
            "mean_confidence": self.mean_confidence,
            "accuracy": asdict(self.accuracy),
            "ece": {
                **asdict(self.ece),
                "by_chance": self.ece_by_chance,
                "chance_limit": self.ece_chance_limit,
                "p": self.p,
            },
            "brier": asdict(self.brier),
            "log_loss": asdict(self.log_loss),
            "all_labels": {
                name: asdict(figure) for name, figure in self.distribution_scores.items()
            },
            "bins": [asdict(one) for one in self.bins],
            "risk": self.risk_curve.to_json(),
        }


def compute_reliability(
    confidence: FloatArray,
    right: BoolArray,
    *,
    scores: Mapping[str, FloatArray] | None = None,
    groups: GroupCodes | None = None,
    seed: int = 0,
) -> Reliability | None:
    """Computes the reliability of confidences.

    Binned calibration error is biased upwards (Roelofs et al. 2022). Therefore the value of a
    perfectly calibrated model on the same confidences is simulated (consistency test, Bröcker and
    Smith 2007), and the interval is the reverse percentile bootstrap's, which corrects the bias; it
    begins at 0 if the test does not reject. With groups of several rows the simulation keeps the
    dependence within groups.

    Args:
        confidence: Confidences in [0, 1], [n]; NaN for none.
        right: Whether answers are right, [n].
        scores: Further scores by row, whose means are estimated; see `compute_proper_scores`.
        groups: Group of each row, [n]; groups are resampled as a whole.
        seed: Seed of the bootstrap and simulation.

    Returns:
        The reliability; None if no row has a confidence.
    """
    known = ~np.isnan(confidence)
    confidence_, right_ = np.clip(confidence[known], 0.0, 1.0), np.asarray(right, dtype=bool)[known]
    rows = len(confidence_)
    accuracy = estimate_proportion(int(right_.sum()), rows)
    if accuracy is None:
        return None
    units = groups[known] if groups is not None else None
    bin_indices = np.minimum((confidence_ * N_BINS).astype(np.int64), N_BINS - 1)
    sure = np.clip(confidence_, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    ece, by_chance, limit, p = _estimate_ece(confidence_, right_, bin_indices, units, seed)
    return Reliability(
        rows=rows,
        rows_without_confidence=int((~known).sum()),
        bins=tuple(
            _build_bin(at, confidence_[bin_indices == at], right_[bin_indices == at])
            for at in np.unique(bin_indices).tolist()
        ),
        mean_confidence=float(confidence_.mean()),
        accuracy=accuracy
        if units is None
        else estimate_mean(right_.astype(np.float64), units, seed),
        ece=ece,
        ece_by_chance=by_chance,
        ece_chance_limit=limit,
        p=p,
        brier=estimate_mean((confidence_ - right_) ** 2, units, seed),
        log_loss=estimate_mean(-np.log(np.where(right_, sure, 1 - sure)), units, seed),
        distribution_scores={
            name: estimate_mean(values[known], units, seed)
            for name, values in (scores or {}).items()
        },
        risk_curve=compute_risk_curve(np.asarray(confidence), np.asarray(right, dtype=bool)),
        grouped=units is not None,
    )


def compute_proper_scores(probabilities: FloatArray, gold: NDArray[Any]) -> dict[str, FloatArray]:
    """Log loss and Brier score of each row's distribution.

    Args:
        probabilities: [n, k]; NaN where a label is not an option of the row. Values below 1e-6 are
            read as 1e-6.
        gold: Column of the truth, [n], or whether each label applies, [n, k]; then both scores are
            means over the row's labels.
    """
    known = ~np.isnan(probabilities)
    filled = np.where(known, probabilities, 0.0)
    if gold.ndim == 1:
        truth = np.zeros(probabilities.shape, dtype=bool)
        truth[np.arange(len(gold)), gold] = True
        loss = -np.log(np.maximum(filled[truth], MIN_PROBABILITY))
        return {"log_loss": loss, "brier": np.where(known, (filled - truth) ** 2, 0.0).sum(axis=1)}
    options = np.maximum(known.sum(axis=1), 1)
    sure = np.clip(filled, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    each = -np.log(np.where(gold, sure, 1 - sure))
    return {
        "log_loss": np.where(known, each, 0.0).sum(axis=1) / options,
        "brier": np.where(known, (filled - gold) ** 2, 0.0).sum(axis=1) / options,
    }


def compute_risk_curve(confidence: FloatArray, right: BoolArray) -> RiskCurve:
    """Error among the most confident rows at every coverage, with exact (Clopper-Pearson) bands.

    Rows of equal confidence are accepted together; rows without one never are.
    """
    from scipy.special import betaincinv

    n = len(confidence)
    # NaN sorts last.
    order = np.argsort(-confidence, kind="stable")[: int((~np.isnan(confidence)).sum())]
    sure = confidence[order]
    ends = (
        np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
        if len(sure)
        else np.zeros(0, dtype=np.int64)
    )
    accepted, wrong = ends + 1, np.cumsum(~right[order])[ends]
    error = wrong / np.maximum(accepted, 1)
    aurc = float((error * np.diff(accepted, prepend=0)).sum() / max(1, len(sure)))
    if len(ends) > MAX_CURVE_POINTS:
        # Evenly spaced in coverage, and the last.
        kept = np.unique(
            np.searchsorted(accepted, np.linspace(accepted[0], accepted[-1], MAX_CURVE_POINTS))
        )
        ends, accepted, wrong, error = ends[kept], accepted[kept], wrong[kept], error[kept]
    low = np.where(wrong > 0, betaincinv(np.maximum(wrong, 1), accepted - wrong + 1, 0.025), 0.0)
    high = np.where(
        wrong < accepted, betaincinv(wrong + 1, np.maximum(accepted - wrong, 1), 0.975), 1.0
    )
    figures = zip(error.tolist(), accepted.tolist(), low.tolist(), high.tolist(), strict=True)
    return RiskCurve(
        tuple((accepted / max(1, n)).tolist()),
        tuple(sure[ends].tolist()),
        tuple(Metric(*one) for one in figures),
        aurc,
    )


def _estimate_ece(
    confidence: FloatArray,
    right: BoolArray,
    bin_indices: NDArray[np.int64],
    groups: GroupCodes | None,
    seed: int,
) -> tuple[Metric, float, float, float]:
    """The error with its interval, its mean and 95th percentile if calibrated perfectly, and p."""
    rows = len(confidence)
    # Rows that are equal to three digits are one cell, because the time depends on the cells.
    alike = np.stack([bin_indices, np.round(confidence * 1000).astype(np.int64), right], axis=1)
    _, cell, counts = np.unique(alike, axis=0, return_inverse=True, return_counts=True)
    unit, cells = (
        (cell.ravel(), counts)
        if groups is None
        else (np.unique(groups, return_inverse=True)[1].ravel(), None)
    )
    gaps = np.zeros((int(unit.max()) + 1, N_BINS))
    np.add.at(gaps, (unit, bin_indices), confidence - right)
    sizes = np.bincount(unit).astype(np.float64)
    if cells is None:
        cells = np.ones(len(sizes), dtype=np.int64)
    else:
        gaps, sizes = gaps / cells[:, None], np.ones(len(cells))

    def figure(drawn: NDArray[np.int64] | FloatArray) -> FloatArray:
        return np.asarray(np.abs(drawn @ gaps).sum(axis=1) / np.maximum(drawn @ sizes, 1e-12))

    value = float(figure(cells[None, :].astype(np.float64))[0])
    chance = (
        _simulate_calibrated_ece(confidence, bin_indices, seed)
        if sizes.max() <= 1
        else _simulate_grouped_ece(gaps, seed) / rows
    )
    p = float((1 + (chance >= value - 1e-12).sum()) / (1 + len(chance)))
    drawn = bootstrap_interval(cells, figure, width=N_BINS, seed=seed)
    interval: tuple[float | None, float | None] = (None, None)
    if drawn is not None:
        low = 0.0 if p >= 0.05 else min(value, max(0.0, 2 * value - drawn[1]))
        interval = low, min(1.0, max(value, 2 * value - drawn[0]))
    return (
        Metric(value, rows, *interval),
        float(chance.mean()),
        float(np.percentile(chance, 95)),
        p,
    )


def _simulate_calibrated_ece(
    confidence: FloatArray, bin_indices: NDArray[np.int64], seed: int
) -> FloatArray:
    """The error [draws] if each row is right with exactly its confidence."""
    random = np.random.default_rng([seed, 1])
    chance = np.zeros(_N_SIMULATIONS)
    for at in np.unique(bin_indices):
        shares, counts = np.unique(np.round(confidence[bin_indices == at], 3), return_counts=True)
        right = random.binomial(counts, shares, size=(_N_SIMULATIONS, len(counts))).sum(axis=1)
        chance += np.abs(right - (shares * counts).sum())
    return chance / len(confidence)


def _simulate_grouped_ece(gaps: FloatArray, seed: int) -> FloatArray:
    """The error [draws] times rows under perfect calibration, if rows of a group are dependent.

    Then the sums of confidence minus right of each group, [groups, bins], have a mean of 0. They
    are multiplied by standard normal numbers, whose sums are drawn here (wild bootstrap over
    clusters, Cameron, Gelbach and Miller 2008).
    """
    random = np.random.default_rng([seed, 1])
    sums = random.multivariate_normal(
        np.zeros(gaps.shape[1]), gaps.T @ gaps, _N_SIMULATIONS, check_valid="ignore", method="eigh"
    )
    return np.asarray(np.abs(sums).sum(axis=1))


def estimate_mean(values: FloatArray, groups: GroupCodes | None, seed: int) -> Metric:
    """The mean of at least one row [n] with a bootstrap interval over groups or rows."""
    if groups is not None:
        unit = np.unique(groups, return_inverse=True)[1].ravel()
        found = estimate_ratio(
            np.bincount(unit, values), np.bincount(unit).astype(np.float64), seed=seed
        )
    else:
        parts = np.array_split(np.sort(values), min(len(values), _MAX_CELLS))
        found = estimate_ratio(
            np.array([part.mean() for part in parts]),
            np.ones(len(parts)),
            np.array(list(map(len, parts))),
            seed=seed,
        )
    assert found is not None
    return replace(found, value=float(values.mean()), n=len(values))


def compute_ece(confidence: FloatArray, right: NDArray[Any]) -> float:
    """Expected calibration error over ten equal bins; NaN without rows."""
    if not len(confidence):
        return float("nan")
    place = np.minimum((np.clip(confidence, 0, 1) * N_BINS).astype(np.int64), N_BINS - 1)
    return float(np.abs(np.bincount(place, confidence - right)).sum() / len(confidence))


def _build_bin(bin_index: int, confidence: FloatArray, right: BoolArray) -> ReliabilityBin:
    share = estimate_proportion(int(right.sum()), len(right))
    assert share is not None
    return ReliabilityBin(
        bin_index / N_BINS, (bin_index + 1) / N_BINS, float(confidence.mean()), share
    )
