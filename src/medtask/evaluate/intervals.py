"""95 % intervals around what a sample shows: Wilson's for a share, a bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Figures = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number measured on ``n`` rows and its 95 % interval; ``low`` and ``high`` are None where the rows give none."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"{self.low:.3f}-{self.high:.3f}"
        return f"{self.value:.3f} ({interval})"


def estimate_share(hits: int, n: int) -> Estimate | None:
    """The share ``hits / n`` with Wilson's score interval; None without rows."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Estimate(hits / n, n, float(interval.low), float(interval.high))


def bootstrap(
    cells: Counts | Figures,
    figure: Callable[[Counts], Figures],
    *,
    n: int | None = None,
    width: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """The percentile bootstrap's 95 % interval of a figure of rows that fall into ``cells`` (rows that are alike are one cell).

    Rows are drawn again as cells (a multinomial draw), so the time depends on the cells and not on the rows. ``figure``
    makes [draws, cells] of row counts into one number each, by way of arrays at most ``width`` or ``cells`` wide. ``n``: how
    many rows a draw has where the cells are but a sample of them (the bag of little bootstraps, Kleiner et al. 2014).
    None where every draw gives the same number: then the bootstrap knows nothing of the spread.
    """
    total = cells.sum()
    if not total:
        return None
    random = np.random.default_rng(seed)
    step = max(1, 4_000_000 // max(len(cells), width))  # draws at a time: some 32 MB an array
    found = [
        figure(random.multinomial(n or int(total), cells / total, size=min(step, resamples - first))) for first in range(0, resamples, step)
    ]
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return (float(low), float(high)) if high - low > 1e-9 else None


def estimate_ratio(
    over: Counts | Figures, under: Counts | Figures, cells: Counts | Figures | None = None, *, seed: int = 0
) -> Estimate | None:
    """The sum of ``over`` through that of ``under``, one of each per cell (see bootstrap; a cell is a row where none are given).

    With ``under`` all 1 it is a mean, with 2 TP over 2 TP + FP + FN it is micro-F1. None without rows, 0 where ``under``
    sums to 0.
    """
    cells = np.ones(len(over)) if cells is None else cells
    if not cells.sum():
        return None

    def figure(drawn: Counts | Figures) -> Figures:
        return np.asarray((drawn @ over) / np.maximum(drawn @ under, 1e-12), dtype=np.float64)

    interval = bootstrap(cells, figure, seed=seed) or (None, None)
    return Estimate(float(figure(cells)), int(cells.sum()), *interval)


def bootstrap_macro_f1(counts: Counts, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """The bootstrap's interval of macro-F1 over the labels that occur in gold.

    ``counts``: [labels, labels + 1], gold by answer, the last column for "no answer".
    """
    from scipy.sparse import csr_array

    gold, answer = np.nonzero(counts)
    cells = counts[gold, answer]
    shape, each = (len(cells), counts.shape[1]), np.arange(len(cells))
    in_gold = csr_array((np.ones(len(cells)), (each, gold)), shape=shape)
    in_both = csr_array(((gold == answer).astype(float), (each, gold)), shape=shape)
    in_either = in_gold + csr_array((np.ones(len(cells)), (each, answer)), shape=shape)

    def figure(drawn: Counts) -> Figures:
        return mean_f1(drawn @ in_both, drawn @ in_gold, drawn @ in_either)

    return bootstrap(cells, figure, width=counts.shape[1], seed=seed, resamples=resamples)


def mean_f1(both: Counts | Figures, gold: Counts | Figures, either: Counts | Figures) -> Figures:
    """Macro-F1 of each draw, over the labels that occur in its gold: [draws, labels] of rows with the label in gold and answer,
    in gold, and of both numbers of rows added up."""
    present = gold > 0
    f1 = np.where(present, 2 * both / np.maximum(either, 1), 0)
    return np.asarray(f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1), dtype=np.float64)
