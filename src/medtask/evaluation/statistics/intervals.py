"""Metrics with 95 % intervals: Wilson's for shares of independent rows, else bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
GroupCodes = NDArray[np.int64]  # group number of each row
# Smaller probabilities count as this value, so that a table's rounding to 0 does not make a loss
# infinite.
MIN_PROBABILITY = 1e-6
N_RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95
Z_VALUE = NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2)  # 1.96 standard errors
MIN_GROUPS = 10  # with fewer groups, the intervals of a bootstrap are too narrow


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number.

    Attributes:
        value: The number.
        n: Number of rows that it was measured on.
        low: Lower end of the 95 % interval; None if the rows give no interval.
        high: Upper end of the 95 % interval.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.interval_text})"

    @property
    def interval_text(self) -> str:
        if self.low is None:
            return "no interval"
        return f"{self.low:.3f}{' to ' if self.low < 0 else '-'}{self.high:.3f}"


def metrics_to_json(metrics: Mapping[str, Metric | None]) -> dict[str, object]:
    """Metrics by name as plain values; None for a metric that could not be computed."""
    return {name: asdict(metric) if metric else None for name, metric in metrics.items()}


@dataclass(frozen=True, slots=True, eq=False)
class ResamplingUnits:
    """Units of the bootstrap: independent rows, or groups of rows that are not independent.

    Attributes:
        counts: Number of units of each kind, [kinds]; units of one kind are alike.
        cell_counts: Rows of each cell in one unit, sparse [kinds, cells]; None if every unit is a
            row and its kind a cell.
        n_groups: Number of units if some have more than one row; None if rows are independent.
    """

    counts: IntArray
    cell_counts: Any = None
    n_groups: int | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.count_rows_per_cell().sum())

    def count_rows_per_cell(self) -> IntArray:
        """Number of rows of each cell, [cells]."""
        return (
            self.counts
            if self.cell_counts is None
            else np.asarray(self.cell_counts.T @ self.counts, dtype=np.int64)
        )

    def sum_per_unit(self, values: Any) -> Any:
        """Sums per unit, [kinds] or [kinds, columns], of values per row of each cell.

        Sparse values give sparse sums.
        """
        return values if self.cell_counts is None else self.cell_counts @ values


def estimate_proportion(hits: int, n: int) -> Metric | None:
    """The share ``hits / n`` with a Wilson score interval; None without rows."""
    if n == 0:
        return None
    return Metric(hits / n, n, *compute_wilson_interval(hits, n))


def compute_wilson_interval(hits: float, n: float) -> tuple[float, float]:
    """The Wilson score interval of the share ``hits / n``; NaN if ``n`` is 0."""
    low, high = compute_wilson_bounds(np.array([hits]), np.array([n]))[:, 0].tolist()
    return low, high


def compute_wilson_bounds(hits: NDArray[Any], n: NDArray[Any]) -> FloatArray:
    """Wilson score intervals (1927) of many shares, [2, shares]; NaN if ``n`` is 0."""
    # scipy.stats.binomtest gives the same interval, but also computes a p-value: a millisecond per
    # share, seconds for 2,000 labels.
    z, rows = Z_VALUE, np.where(n > 0, n, np.nan)
    share = hits / rows
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    # Rounding must not move the bound of no hits away from 0, or of only hits away from 1.
    low, high = np.where(hits == 0, 0.0, middle - reach), np.where(hits == n, 1.0, middle + reach)
    return np.where(np.isnan(rows), np.nan, np.stack([low, high]))


def estimate_clustered_proportion(
    is_hit: Any, is_eligible: Any, units: ResamplingUnits, *, seed: int = 0
) -> Metric | None:
    """Returns a share of rows with an interval that respects groups.

    Args:
        is_hit: Cells that count, [cells].
        is_eligible: Cells in the denominator, [cells].
        units: Rows, or groups that are resampled as a whole. If all groups have the same share, the
            draws have no spread; the interval is then Wilson's for as many rows as there are
            groups.
        seed: Seed of the bootstrap.

    Returns:
        The share; None without eligible rows.
    """
    rows = units.count_rows_per_cell()
    inside = np.asarray(is_eligible, dtype=bool)
    both = np.asarray(is_hit, dtype=bool) & inside
    plain = estimate_proportion(int(rows[both].sum()), int(rows[inside].sum()))
    if plain is None or units.n_groups is None:
        return plain
    drawn = estimate_ratio(both.astype(np.int64), inside.astype(np.int64), units, seed=seed)
    if drawn is not None and drawn.low is not None:
        return replace(drawn, n=plain.n)
    groups = int(units.counts[units.sum_per_unit(inside.astype(np.int64)) > 0].sum())
    alike = estimate_proportion(round(plain.value * groups), groups)
    return Metric(plain.value, plain.n, alike.low, alike.high) if alike else plain


def bootstrap_interval(
    counts: IntArray | FloatArray,
    statistic: Callable[[Any], FloatArray],
    *,
    width: int = 1,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The 95 % interval of one metric; see `bootstrap_intervals`. None if there is none."""
    low, high = bootstrap_intervals(
        counts, lambda drawn: statistic(drawn)[:, None], width=width, seed=seed
    )[:, 0].tolist()
    return None if np.isnan(low) else (low, high)


def bootstrap_intervals(
    counts: IntArray | FloatArray,
    statistics: Callable[[Any], FloatArray],
    *,
    n_units: int | None = None,
    width: int = 1,
    seed: int = 0,
) -> FloatArray:
    """Returns percentile bootstrap intervals, [2, metrics].

    Units are drawn as cells of alike units, so the time depends on the cells and hardly on the
    rows.

    Args:
        counts: Number of units of each cell.
        statistics: Maps counts [draws, cells] to metrics [draws, metrics], NaN if undefined.
        n_units: Units per draw if the cells are a sample of them (bag of little bootstraps, Kleiner
            et al. 2014).
        width: Width of the largest array that ``statistics`` creates.
        seed: Seed of the draws.

    Returns:
        The intervals; NaN if all draws are equal, or if the metric is undefined in most draws.
    """
    if not counts.sum():
        counts = np.zeros(0, dtype=np.int64)
    random = np.random.default_rng(seed)
    step = max(1, 4_000_000 // max(len(counts), width))  # draws per chunk: about 32 MB per array
    sizes = (
        [min(step, N_RESAMPLES - first) for first in range(0, N_RESAMPLES, step)]
        if len(counts)
        else []
    )
    resampled = [
        statistics(drawn)
        for drawn in _draw_resamples(counts, n_units or round(float(counts.sum())), sizes, random)
    ]
    if not resampled:
        return np.full((2, 1), np.nan)
    return _compute_percentile_bounds(np.concatenate(resampled))


def _draw_resamples(
    counts: IntArray | FloatArray, n_units: int, chunk_sizes: list[int], random: np.random.Generator
) -> Iterator[IntArray]:
    """Yields counts [draws, cells] in chunks."""
    # A multinomial draw takes about 80 ns per cell; drawing unit numbers takes about 7 ns per unit
    # and 10 us per draw.
    if (
        counts.dtype.kind != "i"
        or n_units != counts.sum()
        or 7 * n_units + 10_000 > 80 * len(counts)
    ):
        shares = counts / counts.sum()
        for size in chunk_sizes:
            yield random.multinomial(n_units, shares, size=size)
        return
    cell_of = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    for size in chunk_sizes:
        yield np.stack(
            [
                np.bincount(cell_of[random.integers(0, n_units, n_units)], minlength=len(counts))
                for _ in range(size)
            ]
        )


def _compute_percentile_bounds(resampled: FloatArray) -> FloatArray:
    """The 2.5th and 97.5th percentiles of each column, over the draws in which it is defined."""
    ranked = np.sort(resampled, axis=0)  # NaN is sorted last
    defined = (~np.isnan(ranked)).sum(axis=0)
    bounds = []
    for share in ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2):
        place = share * np.maximum(defined - 1, 0)
        below = np.floor(place).astype(np.int64)
        ends = np.stack([below, np.ceil(place).astype(np.int64)])
        low, high = np.take_along_axis(ranked, ends, axis=0)
        bounds.append(low + (place - below) * (high - low))
    low, high = bounds
    known = (2 * defined >= len(resampled)) & (high - low > 1e-9)
    return np.where(known, np.stack(bounds), np.nan)


def estimate_ratio(
    numerator: Any,
    denominator: Any,
    cells: IntArray | FloatArray | ResamplingUnits | None = None,
    *,
    seed: int = 0,
) -> Metric | None:
    """Returns a ratio of two sums over cells, such as a mean or micro-F1.

    Args:
        numerator: Value of each cell.
        denominator: Value of each cell; all 1 for a mean.
        cells: Rows of each cell, or units; default: one row per cell.
        seed: Seed of the bootstrap.

    Returns:
        The ratio; None without rows or if the denominator is 0.
    """
    units = (
        cells
        if isinstance(cells, ResamplingUnits)
        else ResamplingUnits(
            np.ones(len(numerator), dtype=np.int64) if cells is None else np.asarray(cells)
        )
    )
    # Units with equal sums are merged: even with many groups there are few distinct sums.
    sums, place = np.unique(
        np.column_stack([units.sum_per_unit(numerator), units.sum_per_unit(denominator)]),
        axis=0,
        return_inverse=True,
    )
    counts = np.zeros(len(sums), dtype=units.counts.dtype)
    np.add.at(counts, place.ravel(), units.counts)
    if not (counts @ sums[:, 1] if len(sums) else 0):
        return None

    def compute_ratio(drawn: IntArray | FloatArray) -> FloatArray:
        return divide_or_nan(drawn @ sums[:, 0], drawn @ sums[:, 1])

    interval = bootstrap_interval(counts, compute_ratio, seed=seed) or (None, None)
    return Metric(float(compute_ratio(counts[None])[0]), units.n_rows, *interval)


def divide_or_nan(numerator: Any, denominator: Any) -> FloatArray:
    """Elementwise quotient; NaN if the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    return np.asarray(
        np.divide(
            numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0
        ),
        dtype=np.float64,
    )


def build_estimate(value: float | None, n: int, bounds: FloatArray) -> Metric | None:
    """A metric from a value (None or NaN if undefined) and a column of `bootstrap_intervals`."""
    if value is None or np.isnan(value):
        return None
    low, high = bounds.tolist()
    return Metric(float(value), n) if np.isnan(low) else Metric(float(value), n, low, high)


def compute_macro_f1(
    true_positives: IntArray | FloatArray,
    gold: IntArray | FloatArray,
    size_sum: IntArray | FloatArray,
) -> FloatArray:
    """Macro-F1 of each draw over the labels that occur in gold.

    Each argument is [draws, labels]: rows with the label in gold and answer, in gold, and the sum
    of the rows with it in gold and in the answer.
    """
    present = gold > 0
    f1 = np.where(present, 2 * true_positives / np.maximum(size_sum, 1), 0)
    return np.asarray(f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1), dtype=np.float64)
