"""Paired comparisons of two systems, and the sample size that would show a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, floor, log2, sqrt
from typing import Literal

import numpy as np

from medtask.display import format_count, format_row_count, shorten
from medtask.evaluation.kinds.metrics import METRICS, get_metric_title
from medtask.evaluation.presentation.formatting import format_difference, format_p_value
from medtask.evaluation.statistics.intervals import Z_VALUE, Metric
from medtask.evaluation.statistics.metric_sums import MetricSums, estimate_difference
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.significance import (
    ALPHA,
    adjust_p_values,
    compare_by_randomisation,
    compute_sign_test_p,
    count_wins,
)

POWER = 0.8  # probability of showing a difference


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    """One side of a pair: metrics as sums over rows, and which rows are right.

    ``right`` is None for kinds that are not graded right or wrong. All sides start with the same
    rows in the same order; a longer side is truncated to the rows of the shorter one.
    """

    name: str
    metric_sums: Mapping[str, MetricSums]
    right: Sequence[bool] | None = None

    @property
    def n_rows(self) -> int:
        return int(next(iter(self.metric_sums.values())).row_sums.shape[0])


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two systems on the same rows.

    Attributes:
        first: Name of the first system.
        second: Name of the second system.
        n: Number of rows.
        groups: Number of groups; None if rows are independent.
        differences: By metric, how far the first is ahead, with the interval of the paired
            bootstrap; the first is the headline.
        test: The test of the headline difference.
        p: Its p-value.
        only_first: Rows that only the first has right; None if not graded right or wrong.
        only_second: Rows that only the second has right.
        p_rows: McNemar's exact test of these.
        p_holm: ``p``, corrected for the number of pairs.
        more_rows: About how many more rows with gold would show the difference with a power of 80
            %; None if it is shown already, or if there is none.
    """

    first: str
    second: str
    n: int
    groups: int | None
    differences: Mapping[str, Metric]
    test: str
    p: float
    only_first: int | None = None
    only_second: int | None = None
    p_rows: float | None = None
    p_holm: float = field(default=1.0)
    more_rows: int | None = None

    @property
    def headline(self) -> tuple[str, Metric]:
        return next(iter(self.differences.items()))

    @property
    def shows_nothing(self) -> bool:
        """Whether the headline metric of both is equal."""
        return abs(self.headline[1].value) < 1e-12

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference"]:
        """The verdict on the first system compared with the second."""
        if self.p_holm >= ALPHA:
            return "no clear difference"
        return "better" if self.headline[1].value > 0 else "worse"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "verdict": self.verdict}


def compare_pairs(
    pairs: Sequence[tuple[SystemMetrics, SystemMetrics]],
    groups: Sequence[str | None] = (),
    *,
    seed: int = 0,
) -> tuple[PairedComparison, ...]:
    """Compares pairs, with p-values corrected by the method of Holm (1979)."""
    found = [compare_pair(first, second, groups, seed=seed) for first, second in pairs]
    adjusted = adjust_p_values([pair.p for pair in found])
    # The threshold for the smallest p of a family; the rows are then enough for any of them.
    strict = ALPHA / max(1, len(found))
    judged = [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]
    return tuple(replace(pair, more_rows=_compute_more_rows(pair, strict)) for pair in judged)


def compare_pair(
    first: SystemMetrics, second: SystemMetrics, groups: Sequence[str | None] = (), *, seed: int = 0
) -> PairedComparison:
    """Compares two systems on their common rows; groups are resampled as a whole."""
    n = min(first.n_rows, second.n_rows)
    units = build_resampling_units(groups[:n], n)
    measures = [measure for measure in first.metric_sums if measure in second.metric_sums]
    sides = [
        {measure: entry.metric_sums[measure].take_first(n) for measure in measures}
        for entry in (first, second)
    ]
    differences = {
        measure: estimate_difference(sides[0][measure], sides[1][measure], units, seed=seed)
        for measure in measures
    }
    pair = PairedComparison(first.name, second.name, n, units.n_groups, differences, "", 1.0)
    if first.right is not None and second.right is not None:
        one, other = (np.array(right[:n], dtype=bool) for right in (first.right, second.right))
        wins, losses = count_wins(one, other)
        p = compute_sign_test_p(wins, losses)
        pair = replace(pair, only_first=wins, only_second=losses, p_rows=p)
        if METRICS[measures[0]].is_proportion and units.n_groups is None:
            return replace(pair, test="McNemar's exact test", p=p)
    totals = [units.sum_per_unit(side[measures[0]].row_sums).toarray().T for side in sides]
    ratios = [(np.asarray(over), np.asarray(under)) for over, under in totals]
    test = f"randomisation of {'rows' if units.n_groups is None else 'whole groups'}"
    return replace(pair, test=test, p=compare_by_randomisation(*ratios, seed=seed).p)


def compute_mcnemar_sample_size(
    only_first: float, only_second: float, *, alpha: float = ALPHA
) -> int | None:
    """The number of rows that McNemar's test needs to show such a difference, with a power of 80 %.

    Miettinen 1968, in the form of Connor 1987, "Sample size for testing differences in proportions
    for the paired-sample design", Biometrics 43.

    Args:
        only_first: Share of rows that only the first system has right.
        only_second: Share of rows that only the second system has right.
        alpha: Significance level.

    Returns:
        The number of rows; None if the shares are equal.
    """
    from scipy.stats import norm

    gap, apart = abs(only_first - only_second), only_first + only_second
    if gap == 0:
        return None
    reach = norm.ppf(1 - alpha / 2) * sqrt(apart) + norm.ppf(POWER) * sqrt(max(0.0, apart - gap**2))
    # The exact test rejects from so many rows on of which only one system has all right.
    fewest = floor(1 - log2(alpha)) + 1
    return max(ceil(float(reach / gap) ** 2), ceil(fewest / apart - 1e-9))


def compute_difference_sample_size(difference: Metric, *, alpha: float = ALPHA) -> int | None:
    """The number of rows needed to show a difference with a power of 80 %.

    This is a normal approximation: the standard error is derived from the interval, and shrinks
    with the square root of the rows.
    Returns None without a difference or an interval.
    """
    from scipy.stats import norm

    if difference.low is None or difference.high is None or abs(difference.value) < 1e-12:
        return None
    error = (difference.high - difference.low) / (2 * Z_VALUE)
    return ceil(
        difference.n
        * float((norm.ppf(1 - alpha / 2) + norm.ppf(POWER)) * error / difference.value) ** 2
    )


def describe_pair(pair: PairedComparison) -> str:
    """One sentence on which system is better, or how many rows would show it."""
    measure, gap = pair.headline
    ahead, behind = (
        (shorten(pair.first), shorten(pair.second))
        if gap.value >= 0
        else (shorten(pair.second), shorten(pair.first))
    )
    size = (
        f"{get_metric_title(measure)} differs by {format_difference(_orient_difference(gap))} on "
        f"{format_row_count(pair.n)}"
    )
    size += f" in {pair.groups:,} groups" if pair.groups is not None else ""
    if pair.verdict != "no clear difference":
        return f"{ahead} is better than {behind}: {size}, {format_p_value(pair.p_holm)}."
    sentence = (
        f"{shorten(pair.first)} and {shorten(pair.second)} show no clear difference: {size}, "
        f"{format_p_value(pair.p_holm)}."
    )
    return f"{sentence} {describe_rows_needed(pair)}"


def describe_rows_needed(pair: PairedComparison) -> str:
    """How many rows would show the difference; "" if it is already shown."""
    if pair.verdict != "no clear difference":
        return ""
    if pair.more_rows is None:
        return (
            "These rows show no difference at all, so no number of rows can be given."
            if pair.shows_nothing
            else "These rows are too few to estimate how many would show it."
        )
    rows = format_count(round_up_rows(pair.more_rows), "more row")
    return f"About {rows} with gold would be needed to show a difference of this size."


def round_up_rows(rows: int) -> int:
    """Round up to two significant digits, which is the precision of the estimate."""
    step: int = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // step) * step


def _orient_difference(difference: Metric) -> Metric:
    """The difference with a positive sign."""
    if difference.value >= 0 or difference.low is None or difference.high is None:
        return replace(difference, value=abs(difference.value))
    return Metric(-difference.value, difference.n, -difference.high, -difference.low)


def _compute_more_rows(pair: PairedComparison, alpha: float) -> int | None:
    if pair.verdict != "no clear difference":
        return None
    if pair.test.startswith("McNemar"):
        assert pair.only_first is not None and pair.only_second is not None
        needed = compute_mcnemar_sample_size(
            pair.only_first / pair.n, pair.only_second / pair.n, alpha=alpha
        )
    else:
        needed = compute_difference_sample_size(pair.headline[1], alpha=alpha)
    return None if needed is None else max(1, needed - pair.n)
