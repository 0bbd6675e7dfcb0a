"""95 % intervals around what a sample shows: Wilson's for a share of independent rows, a bootstrap
for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Figures = NDArray[np.float64]
RESAMPLES = 1000
LEVEL = 0.95
REACH = NormalDist().inv_cdf(
    (1 + LEVEL) / 2
)  # 1.96: standard errors from a normal middle to the ends of its interval
FEW_GROUPS = 10  # with fewer, a bootstrap of groups is too sure of itself


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number measured on ``n`` rows and its 95 % interval; ``low`` and ``high`` are None where
    the rows give none.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.interval})"

    @property
    def interval(self) -> str:
        if self.low is None:
            return "no interval"
        return f"{self.low:.3f}{' to ' if self.low < 0 else '-'}{self.high:.3f}"


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What is drawn again: rows that are independent of each other, or groups of rows that are not.

    ``counts`` [kinds]: units of each kind, alike within it. ``rows`` [kinds, cells], sparse: how
    many rows of each cell one unit brings; None where a unit is a row, and its kind a cell.
    ``groups``: how many units there are where some have more rows than one; None where rows are
    independent.
    """

    counts: Counts
    rows: Any = None
    groups: int | None = None

    @property
    def n(self) -> int:
        """Rows in all."""
        return int(self.count_rows().sum())

    def count_rows(self) -> Counts:
        """[cells]"""
        return (
            self.counts
            if self.rows is None
            else np.asarray(self.rows.T @ self.counts, dtype=np.int64)
        )

    def lift(self, values: Any) -> Any:
        """What one unit of each kind adds up to, [kinds] or [kinds, columns], of what a row of each
        cell is worth; sparse stays sparse.
        """
        return values if self.rows is None else self.rows @ values


def estimate_share(hits: int, n: int) -> Estimate | None:
    """The share ``hits / n`` with Wilson's score interval; None without rows."""
    if n == 0:
        return None
    low, high = bound_shares(np.array([hits]), np.array([n]))[:, 0].tolist()
    return Estimate(hits / n, n, low, high)


def bound_shares(hits: Counts, n: Counts) -> Figures:
    """Wilson's score intervals (1927) of many shares at once, [2, shares]; NaN where ``n`` is 0."""
    # scipy.stats.binomtest gives the same, and works out a p-value with each: a millisecond a
    # share, seconds for 2,000 labels.
    z, rows = REACH, np.where(n > 0, n, np.nan)
    share = hits / rows
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    # Rounding must not push the bounds of none and of all away from 0 and 1.
    low, high = np.where(hits == 0, 0.0, middle - reach), np.where(hits == n, 1.0, middle + reach)
    return np.where(np.isnan(rows), np.nan, np.stack([low, high]))


def estimate_rate(hits: Any, of: Any, units: Units, *, seed: int = 0) -> Estimate | None:
    """The share of the rows in the cells ``of`` that are in the cells ``hits``, both [cells] of
    truth values; None without rows.

    Wilson's interval where rows are independent. Else whole groups are drawn again; where all
    groups have the same share, and so their draws show no spread, it is Wilson's for as many rows
    as there are groups.
    """
    rows = units.count_rows()
    inside = np.asarray(of, dtype=bool)
    both = np.asarray(hits, dtype=bool) & inside
    plain = estimate_share(int(rows[both].sum()), int(rows[inside].sum()))
    if plain is None or units.groups is None:
        return plain
    drawn = estimate_ratio(both.astype(np.int64), inside.astype(np.int64), units, seed=seed)
    if drawn is not None and drawn.low is not None:
        return replace(drawn, n=plain.n)
    groups = int(units.counts[units.lift(inside.astype(np.int64)) > 0].sum())
    alike = estimate_share(round(plain.value * groups), groups)
    return Estimate(plain.value, plain.n, alike.low, alike.high) if alike else plain


def bootstrap(
    cells: Counts | Figures,
    figure: Callable[[Any], Figures],
    *,
    n: int | None = None,
    width: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """The 95 % interval of one figure: see bootstrap_all, of which ``figure`` makes one number a
    draw. None where there is none.
    """
    low, high = bootstrap_all(
        cells,
        lambda drawn: figure(drawn)[:, None],
        n=n,
        width=width,
        seed=seed,
        resamples=resamples,
    )[:, 0].tolist()
    return None if np.isnan(low) else (low, high)


def bootstrap_all(
    cells: Counts | Figures,
    figures: Callable[[Any], Figures],
    *,
    n: int | None = None,
    width: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figures:
    """The percentile bootstrap's 95 % intervals, [2, figures], of figures of units that fall into
    ``cells`` (alike ones are one cell).

    Units (rows, or groups of rows) are drawn again as cells, so the time depends on the cells and
    hardly on the rows. ``figures`` makes [draws, cells] of counts into [draws, figures], NaN where
    a draw leaves one undefined, by way of arrays at most ``width`` or ``cells`` wide. ``n``: how
    many units a draw has where the cells are but a sample of them (the bag of little bootstraps,
    Kleiner et al. 2014). NaN where every draw gives the same number, for then the bootstrap knows
    nothing of the spread, and where most draws leave the figure undefined.
    """
    if not cells.sum():
        cells = np.zeros(0, dtype=np.int64)
    random = np.random.default_rng(seed)
    step = max(1, 4_000_000 // max(len(cells), width))  # draws at a time: some 32 MB an array
    sizes = (
        [min(step, resamples - first) for first in range(0, resamples, step)] if len(cells) else []
    )
    found = [
        figures(drawn) for drawn in _draw(cells, n or round(float(cells.sum())), sizes, random)
    ]
    if not found:
        return np.full((2, 1), np.nan)
    return _bound(np.concatenate(found))


def _draw(
    cells: Counts | Figures, n: int, sizes: list[int], random: np.random.Generator
) -> Iterator[Counts]:
    """[draws, cells] of so many draws at a time."""
    # A multinomial draw takes some 80 ns a cell; units by their numbers some 7 ns each, and 10 us a
    # draw.
    if cells.dtype.kind != "i" or n != cells.sum() or 7 * n + 10_000 > 80 * len(cells):
        shares = cells / cells.sum()
        for size in sizes:
            yield random.multinomial(n, shares, size=size)
        return
    cell_of = np.repeat(np.arange(len(cells)), cells.astype(np.int64))
    for size in sizes:
        yield np.stack(
            [
                np.bincount(cell_of[random.integers(0, n, n)], minlength=len(cells))
                for _ in range(size)
            ]
        )


def _bound(found: Figures) -> Figures:
    """The 2.5th and 97.5th percentiles of each column, over the draws in which it is defined."""
    ranked = np.sort(found, axis=0)  # NaN come last
    defined = (~np.isnan(ranked)).sum(axis=0)
    bounds = []
    for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        place = share * np.maximum(defined - 1, 0)
        below = np.floor(place).astype(np.int64)
        ends = np.stack([below, np.ceil(place).astype(np.int64)])
        low, high = np.take_along_axis(ranked, ends, axis=0)
        bounds.append(low + (place - below) * (high - low))
    low, high = bounds
    known = (2 * defined >= len(found)) & (high - low > 1e-9)
    return np.where(known, np.stack(bounds), np.nan)


def estimate_ratio(
    over: Any, under: Any, cells: Counts | Figures | Units | None = None, *, seed: int = 0
) -> Estimate | None:
    """The sum of ``over`` through that of ``under``, one of each per cell (a cell is a row where
    none are given).

    With ``under`` all 1 it is a mean, with 2 TP over 2 TP + FP + FN it is micro-F1. ``cells``: rows
    in each, or the units that bring rows of them. None without rows, and where ``under`` sums to 0.
    """
    units = (
        cells
        if isinstance(cells, Units)
        else Units(np.ones(len(over), dtype=np.int64) if cells is None else np.asarray(cells))
    )
    # Units that add the same are alike: however many groups there are, they differ in few ways.
    sums, place = np.unique(
        np.column_stack([units.lift(over), units.lift(under)]), axis=0, return_inverse=True
    )
    counts = np.zeros(len(sums), dtype=units.counts.dtype)
    np.add.at(counts, place.ravel(), units.counts)
    if not (counts @ sums[:, 1] if len(sums) else 0):
        return None

    def figure(drawn: Counts | Figures) -> Figures:
        return divide(drawn @ sums[:, 0], drawn @ sums[:, 1])

    interval = bootstrap(counts, figure, seed=seed) or (None, None)
    return Estimate(float(figure(counts[None])[0]), units.n, *interval)


def divide(over: Any, under: Any) -> Figures:
    """Element by element; NaN where ``under`` is 0."""
    over, under = np.broadcast_arrays(
        np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    )
    return np.asarray(
        np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0), dtype=np.float64
    )


def name_interval(value: float | None, n: int, bounds: Figures) -> Estimate | None:
    """A value (None or NaN where undefined) and a column of bootstrap_all as an estimate."""
    if value is None or np.isnan(value):
        return None
    low, high = bounds.tolist()
    return Estimate(float(value), n) if np.isnan(low) else Estimate(float(value), n, low, high)


def mean_f1(both: Counts | Figures, gold: Counts | Figures, either: Counts | Figures) -> Figures:
    """Macro-F1 of each draw, over the labels that occur in its gold: [draws, labels] of rows with
    the label in gold and answer, in gold, and of both numbers of rows added up.
    """
    present = gold > 0
    f1 = np.where(present, 2 * both / np.maximum(either, 1), 0)
    return np.asarray(f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1), dtype=np.float64)
