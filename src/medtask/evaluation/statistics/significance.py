"""Tests of the difference between two methods on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    Metric,
    ResamplingUnits,
    metrics_to_json,
)

ALPHA = 0.05
N_SHUFFLES = 5000
RatioTerms = tuple[FloatArray, FloatArray]  # numerator and denominator, [rows] each


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A baseline compared with the model, row by row.

    Attributes:
        verdict: Verdict on the baseline; "no clear difference" if ``p`` is 0.05 or more.
        p: p-value of the difference.
        model: The model's metric on these rows.
    """

    verdict: Literal["better", "worse", "no clear difference"]
    p: float
    model: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """A simple method on the rows with gold.

    Attributes:
        name: The baseline.
        method: How it works.
        metrics: Metrics by name; the first is compared.
        comparison: Comparison with the model.
        note: Why there are no metrics; "" if there are.
        sampled_from: The number of rows of which it was computed on some only, because the time for
            baselines is limited; None if it was computed on all of them.
        role: "floor" if any model must beat it, "learned" if trained on gold, else "untrained".
    """

    name: str
    method: str
    metrics: Mapping[str, Metric | None] = field(default_factory=dict)
    comparison: BaselineComparison | None = None
    note: str = ""
    sampled_from: int | None = None
    role: Literal["floor", "learned", "untrained"] = "untrained"

    @property
    def headline(self) -> tuple[str, Metric] | None:
        """Name and value of the compared metric."""
        return next(((measure, figure) for measure, figure in self.metrics.items() if figure), None)

    def to_json(self) -> dict[str, object]:
        figures = metrics_to_json(self.metrics)
        versus = asdict(self.comparison) if self.comparison else None
        return {
            "name": self.name,
            "method": self.method,
            **figures,
            "versus": versus,
            "note": self.note,
            "sampled_from": self.sampled_from,
        }


def describe_sampling(rows: int, sampled_from: int) -> str:
    """Why a baseline was computed on fewer rows, to follow "computed"."""
    return (
        f"on {rows:,} of {sampled_from:,} rows, drawn at random: simple methods may take as long "
        "as the model was asked, and at least a minute"
    )


def compare_by_mcnemar(
    gold: Sequence[object], baseline: Sequence[object], model: Sequence[object]
) -> BaselineComparison:
    """Compares two methods by McNemar's exact test; a row is right if it equals gold."""
    one, other = (
        np.array([value == truth for value, truth in zip(column, gold, strict=True)])
        for column in (baseline, model)
    )
    wins, losses = count_wins(one, other)
    return _build_comparison(wins - losses, compute_sign_test_p(wins, losses), float(other.mean()))


def count_wins(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int]:
    """The number of rows that only the first method has right, and that only the second has."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def compute_sign_test_p(wins: int, losses: int) -> float:
    """p-value of the split of wins and losses by the exact sign test.

    For rows that only one of two methods has right this is McNemar's exact test.
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def compare_by_randomisation(
    baseline: RatioTerms, model: RatioTerms, *, seed: int = 0
) -> BaselineComparison:
    """Compares two methods by a metric that is a ratio of sums over rows.

    Approximate randomisation (Noreen 1989; Yeh 2000): the p-value is the share of random swaps of
    the two answers of each row that give a difference as large as the observed one.
    """
    model_sums, baseline_sums = np.stack(model).sum(axis=1), np.stack(baseline).sum(axis=1)
    gap = _compute_ratio(baseline_sums) - _compute_ratio(model_sums)
    # The changes of the sums by swapping each row, [numerator and denominator, rows].
    rows = np.stack([one - other for one, other in zip(baseline, model, strict=True)])
    rows = rows[:, rows.any(axis=0)]  # swapping two equal answers changes nothing
    random = np.random.default_rng(seed)
    as_large, step = 0, max(1, 4_000_000 // max(1, rows.shape[1]))
    for first in range(0, N_SHUFFLES, step):
        moved = rows @ (random.random((rows.shape[1], min(step, N_SHUFFLES - first))) < 0.5)
        gaps = _compute_ratio(baseline_sums[:, None] - moved) - _compute_ratio(
            model_sums[:, None] + moved
        )
        as_large += int((np.abs(gaps) >= abs(gap) - 1e-12).sum())
    return _build_comparison(
        float(gap), (as_large + 1) / (N_SHUFFLES + 1), float(_compute_ratio(model_sums))
    )


def compare_wins(
    won: NDArray[np.bool_], lost: NDArray[np.bool_], units: ResamplingUnits
) -> tuple[str, float]:
    """The test of the rows won against those lost, and its p-value.

    Of rows with groups, the results of whole groups are exchanged.
    """
    if units.n_groups is None:
        return "sign test", compute_sign_test_p(int(won.sum()), int(lost.sum()))
    sums = [np.asarray(units.sum_per_unit(one.astype(np.float64))) for one in (won, lost)]
    every = np.ones(len(sums[0]))
    comparison = compare_by_randomisation((sums[0], every), (sums[1], every))
    return "randomisation of whole groups", comparison.p


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple tests.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def compare_to_guessing(
    expected: float, gold: Sequence[object], model: Sequence[object]
) -> BaselineComparison:
    """Compares the model with a guess that is right with probability ``expected``, by a binomial
    test.
    """
    from scipy.stats import binomtest

    hits = sum(given == truth for given, truth in zip(model, gold, strict=True))
    share = hits / len(gold)
    return _build_comparison(
        expected - share, float(binomtest(hits, len(gold), expected).pvalue), share
    )


def _build_comparison(difference: float, p: float, model: float) -> BaselineComparison:
    """Build the comparison; ``difference`` is the baseline's metric minus the model's."""
    verdict: Literal["better", "worse"] = "better" if difference > 0 else "worse"
    return BaselineComparison(verdict if p < ALPHA else "no clear difference", p, model)


def _compute_ratio(sums: FloatArray) -> FloatArray:
    """[numerator and denominator, ...] to [...]"""
    return np.asarray(sums[0] / np.maximum(sums[1], 1e-12))
