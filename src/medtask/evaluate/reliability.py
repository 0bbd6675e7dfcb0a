"""Whether a confidence means what it says: reliability, its error, proper scores, and the error at
each coverage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluate.blocks import Block, Picture, Table, Text
from medtask.evaluate.curves import draw_reliability, draw_risk
from medtask.evaluate.intervals import Estimate, Figures, bootstrap, estimate_ratio, estimate_share
from medtask.evaluate.words import capital, count_rows

BINS = 10
FLOOR = (
    1e-6  # a probability below is read as this: a table's rounding must not make a loss infinite
)
POINTS = 100  # of a curve that are kept
_DRAWS = 1000
_CELLS = 2000

Truths = NDArray[np.bool_]
Groups = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows whose confidence lies in [low, high): their mean confidence, and the share of them that
    was right.
    """

    low: float
    high: float
    confidence: float
    right: Estimate


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """The error among accepted rows by their coverage, from the surest rows on; at most 100 points.
    ``aurc``: its area (Geifman and El-Yaniv 2017), the mean error over all coverages.
    """

    coverage: tuple[float, ...]
    thresholds: tuple[float, ...]
    error: tuple[Estimate, ...]
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
    """How far the confidence of ``rows`` rows can be believed; ``without`` further rows have none.

    ``ece``: expected calibration error over ten equal bins. It is never 0 on few rows: a model
    whose confidence is exactly right would show ``ece_by_chance`` on average, and exceed
    ``ece_chance_limit`` once in twenty times; ``p`` is its chance of an error this large.
    ``brier``, ``log_loss``: of the confidence that the answer is right (0.25 and 0.69: what 0.5 for
    every row has). ``whole``: scores of the whole distribution, where it is known.
    """

    rows: int
    without: int
    bins: tuple[ReliabilityBin, ...]
    mean_confidence: float
    accuracy: Estimate
    ece: Estimate
    ece_by_chance: float
    ece_chance_limit: float
    p: float
    brier: Estimate
    log_loss: Estimate
    whole: Mapping[str, Estimate]
    risk: RiskCurve

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text."""
        return {
            "rows": self.rows,
            "without_confidence": self.without,
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
            "all_labels": {name: asdict(figure) for name, figure in self.whole.items()},
            "bins": [asdict(one) for one in self.bins],
            "risk": self.risk.to_json(),
        }

    def describe(self) -> str:
        """The finding in a sentence or two."""
        gap = self.mean_confidence - self.accuracy.value
        told = f"expected calibration error {self.ece} on {count_rows(self.rows)}"
        if self.p >= 0.05:
            return (
                f"{told}; a perfect confidence would show {self.ece_by_chance:.3f} by chance: "
                "no sign that it misleads"
            )
        way = "surer than it is right" if gap > 0 else "less sure than it could be"
        means = f"mean confidence {self.mean_confidence:.3f}, right {self.accuracy.value:.3f}"
        return (
            f"{told}, where chance would show {self.ece_by_chance:.3f}: on the whole the "
            f"model is {way} ({means})"
        )

    def tell(self, *, risk: bool = True) -> list[Block]:
        """For a report: the diagram, with ``risk`` the curve, the figures."""
        named = {"brier": "Brier score", "log_loss": "log loss"}
        lines = [
            (
                "Expected calibration error",
                str(self.ece),
                f"a perfect confidence would show {self.ece_by_chance:.3f} by chance",
            ),
            (
                "Brier score of the confidence",
                str(self.brier),
                "0 is best; 0.25 is saying 0.5 of every row",
            ),
            (
                "Log loss of the confidence",
                str(self.log_loss),
                "0 is best; 0.693 is saying 0.5 of every row",
            ),
            *(
                (f"{named.get(name, name).capitalize()}, all labels", str(one), "0 is best")
                for name, one in self.whole.items()
            ),
            (
                "Area under the error curve",
                f"{self.risk.aurc:.3f}",
                "mean error over all coverages; 0 is best",
            ),
        ]
        left = (
            f" {count_rows(self.without)} with gold have no confidence and are not here."
            if self.without
            else ""
        )
        caption = f"n = {self.rows:,} rows with gold and a confidence"
        bins = [(one.confidence, one.right) for one in self.bins]
        return [
            Text(f"{capital(self.describe())}.{left}"),
            Picture(
                "Share right by confidence, with 95 % intervals; the bars below count rows",
                draw_reliability(bins, "Reliability"),
            ),
            *(self.tell_risk() if risk else []),
            Table(
                "Figures of the confidence",
                (("Figure", "l"), ("Value (95 %)", "n"), ("How to read it", "w")),
                lines,
                caption,
            ),
        ]

    def tell_risk(self) -> list[Block]:
        """For a report: what acceptance could reach."""
        drawn = draw_risk(self.risk.coverage, self.risk.error, "Risk")
        return [
            Picture(
                "Error among the surest rows, the more of them are accepted; the band is its 95 "
                "% interval",
                drawn,
            )
        ]


def measure_reliability(
    confidence: Figures,
    right: Truths,
    *,
    scores: Mapping[str, Figures] | None = None,
    groups: Groups | None = None,
    seed: int = 0,
) -> Reliability | None:
    """How well confidences [n] in [0, 1] (NaN: none) foretell whether answers are right [n].

    ``scores``: further scores by row (see score_shares), whose means are told. ``groups`` [n]: rows
    of one group are drawn together by the bootstrap. Binned calibration error is biased upwards
    (Roelofs et al. 2022), so the value of a perfectly calibrated model on these very confidences is
    simulated beside it (a consistency test, Bröcker and Smith 2007), and the interval is the
    reverse percentile bootstrap's, which takes the bias off; it begins at 0 where the test does not
    reject. The simulation takes rows as independent. None without a row that has a confidence.
    """
    known = ~np.isnan(confidence)
    confidence_, right_ = np.clip(confidence[known], 0.0, 1.0), np.asarray(right, dtype=bool)[known]
    rows = len(confidence_)
    accuracy = estimate_share(int(right_.sum()), rows)
    if accuracy is None:
        return None
    units = groups[known] if groups is not None else None
    place = np.minimum((confidence_ * BINS).astype(np.int64), BINS - 1)
    sure = np.clip(confidence_, FLOOR, 1 - FLOOR)
    ece, by_chance, limit, p = _measure_ece(confidence_, right_, place, units, seed)
    return Reliability(
        rows=rows,
        without=int((~known).sum()),
        bins=tuple(
            _describe_bin(at, confidence_[place == at], right_[place == at])
            for at in np.unique(place).tolist()
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
        whole={
            name: estimate_mean(values[known], units, seed)
            for name, values in (scores or {}).items()
        },
        risk=trace_risk(np.asarray(confidence), np.asarray(right, dtype=bool)),
    )


def score_shares(shares: Figures, gold: NDArray[Any]) -> dict[str, Figures]:
    """Log loss and Brier score of each row's whole distribution [n, k]; columns that are NaN are no
    options of the row.

    ``gold``: [n] column of the truth (the log loss of its probability; the sum of squares over the
    options), or [n, k] whether a label applies (both are means over the row's labels).
    Probabilities below 1e-6 are read as that.
    """
    known = ~np.isnan(shares)
    filled = np.where(known, shares, 0.0)
    if gold.ndim == 1:
        truth = np.zeros(shares.shape, dtype=bool)
        truth[np.arange(len(gold)), gold] = True
        loss = -np.log(np.maximum(filled[truth], FLOOR))
        return {"log_loss": loss, "brier": np.where(known, (filled - truth) ** 2, 0.0).sum(axis=1)}
    options = np.maximum(known.sum(axis=1), 1)
    sure = np.clip(filled, FLOOR, 1 - FLOOR)
    each = -np.log(np.where(gold, sure, 1 - sure))
    return {
        "log_loss": np.where(known, each, 0.0).sum(axis=1) / options,
        "brier": np.where(known, (filled - gold) ** 2, 0.0).sum(axis=1) / options,
    }


def trace_risk(confidence: Figures, right: Truths) -> RiskCurve:
    """The error among the surest rows at every coverage, with Clopper-Pearson's exact 95 % bands
    (each for itself).

    Rows of equal confidence are accepted together; rows without one never are, so the curve may end
    before 1.
    """
    from scipy.stats import beta

    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")[
        : int((~np.isnan(confidence)).sum())
    ]  # NaN sorts last
    sure = confidence[order]
    ends = (
        np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
        if len(sure)
        else np.zeros(0, dtype=np.int64)
    )
    accepted, wrong = ends + 1, np.cumsum(~right[order])[ends]
    error = wrong / np.maximum(accepted, 1)
    aurc = float((error * np.diff(accepted, prepend=0)).sum() / max(1, len(sure)))
    if len(ends) > POINTS:
        # Evenly spaced in coverage, and the last.
        kept = np.unique(np.searchsorted(accepted, np.linspace(accepted[0], accepted[-1], POINTS)))
        ends, accepted, wrong, error = ends[kept], accepted[kept], wrong[kept], error[kept]
    low = np.where(wrong > 0, beta.ppf(0.025, np.maximum(wrong, 1), accepted - wrong + 1), 0.0)
    high = np.where(
        wrong < accepted, beta.ppf(0.975, wrong + 1, np.maximum(accepted - wrong, 1)), 1.0
    )
    figures = zip(error.tolist(), accepted.tolist(), low.tolist(), high.tolist(), strict=True)
    return RiskCurve(
        tuple((accepted / max(1, n)).tolist()),
        tuple(sure[ends].tolist()),
        tuple(Estimate(*one) for one in figures),
        aurc,
    )


def _measure_ece(
    confidence: Figures, right: Truths, place: NDArray[np.int64], groups: Groups | None, seed: int
) -> tuple[Estimate, float, float, float]:
    """The error with its interval; its mean and 95th percentile under perfect calibration; the
    test's p-value.
    """
    rows = len(confidence)
    # Rows that are alike to three digits are one cell: the time depends on the cells.
    alike = np.stack([place, np.round(confidence * 1000).astype(np.int64), right], axis=1)
    _, cell, counts = np.unique(alike, axis=0, return_inverse=True, return_counts=True)
    unit, cells = (
        (cell.ravel(), counts)
        if groups is None
        else (np.unique(groups, return_inverse=True)[1].ravel(), None)
    )
    gaps = np.zeros((int(unit.max()) + 1, BINS))
    np.add.at(gaps, (unit, place), confidence - right)
    sizes = np.bincount(unit).astype(np.float64)
    if cells is None:
        cells = np.ones(len(sizes), dtype=np.int64)
    else:
        gaps, sizes = gaps / cells[:, None], np.ones(len(cells))

    def figure(drawn: NDArray[np.int64] | Figures) -> Figures:
        return np.asarray(np.abs(drawn @ gaps).sum(axis=1) / np.maximum(drawn @ sizes, 1e-12))

    value = float(figure(cells[None, :].astype(np.float64))[0])
    chance = _simulate_chance(confidence, place, seed)
    p = float((1 + (chance >= value - 1e-12).sum()) / (1 + len(chance)))
    drawn = bootstrap(cells, figure, width=BINS, seed=seed)
    interval: tuple[float | None, float | None] = (None, None)
    if drawn is not None:
        low = 0.0 if p >= 0.05 else min(value, max(0.0, 2 * value - drawn[1]))
        interval = low, min(1.0, max(value, 2 * value - drawn[0]))
    return (
        Estimate(value, rows, *interval),
        float(chance.mean()),
        float(np.percentile(chance, 95)),
        p,
    )


def _simulate_chance(confidence: Figures, place: NDArray[np.int64], seed: int) -> Figures:
    """The error that these confidences show when each row is right with exactly its confidence,
    [draws].
    """
    random = np.random.default_rng([seed, 1])
    chance = np.zeros(_DRAWS)
    for at in np.unique(place):
        shares, counts = np.unique(np.round(confidence[place == at], 3), return_counts=True)
        right = random.binomial(counts, shares, size=(_DRAWS, len(counts))).sum(axis=1)
        chance += np.abs(right - (shares * counts).sum())
    return chance / len(confidence)


def estimate_mean(values: Figures, groups: Groups | None, seed: int) -> Estimate:
    """The mean of at least one row [n], with the bootstrap's interval over groups, or over rows of
    about equal value.
    """
    if groups is not None:
        unit = np.unique(groups, return_inverse=True)[1].ravel()
        found = estimate_ratio(
            np.bincount(unit, values), np.bincount(unit).astype(np.float64), seed=seed
        )
    else:
        parts = np.array_split(np.sort(values), min(len(values), _CELLS))
        found = estimate_ratio(
            np.array([part.mean() for part in parts]),
            np.ones(len(parts)),
            np.array(list(map(len, parts))),
            seed=seed,
        )
    assert found is not None
    return replace(found, value=float(values.mean()), n=len(values))


def compute_ece(confidence: Figures, right: NDArray[Any]) -> float:
    """The expected calibration error over ten equal bins, of rows all of which have a confidence;
    NaN without rows.
    """
    if not len(confidence):
        return float("nan")
    place = np.minimum((np.clip(confidence, 0, 1) * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, confidence - right)).sum() / len(confidence))


def _describe_bin(at: int, confidence: Figures, right: Truths) -> ReliabilityBin:
    share = estimate_share(int(right.sum()), len(right))
    assert share is not None
    return ReliabilityBin(at / BINS, (at + 1) / BINS, float(confidence.mean()), share)
