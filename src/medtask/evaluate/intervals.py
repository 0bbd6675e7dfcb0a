"""95 % intervals around what a sample shows: Wilson's for a share, a bootstrap for macro-F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


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


def bootstrap_macro_f1(counts: Counts, *, seed: int = 0, resamples: int = 1000) -> tuple[float, float] | None:
    """The percentile bootstrap's 95 % interval of macro-F1 over the labels that occur in gold.

    ``counts``: [labels, labels + 1], gold by answer, the last column for "no answer". Rows are drawn again as cells of
    this table (a multinomial draw), so the time depends on the cells in use and not on the rows. None where every
    draw gives the same number (no errors, or nothing but errors): then the bootstrap knows nothing of the spread.
    """
    from scipy.sparse import csr_array

    gold, answer = np.nonzero(counts)
    cells = counts[gold, answer]
    if not len(cells):
        return None
    shape, each = (len(cells), counts.shape[1]), np.arange(len(cells))
    in_gold = csr_array((np.ones(len(cells)), (each, gold)), shape=shape)
    in_both = csr_array(((gold == answer).astype(float), (each, gold)), shape=shape)
    in_either = in_gold + csr_array((np.ones(len(cells)), (each, answer)), shape=shape)

    random = np.random.default_rng(seed)
    figures: list[NDArray[np.float64]] = []
    step = max(1, 4_000_000 // max(shape))  # draws at a time: some 32 MB an array
    for first in range(0, resamples, step):
        drawn = random.multinomial(cells.sum(), cells / cells.sum(), size=min(step, resamples - first))
        present = drawn @ in_gold > 0
        f1 = 2 * (drawn @ in_both) / np.maximum(drawn @ in_either, 1)
        figures.append(np.where(present, f1, 0).sum(axis=1) / present.sum(axis=1))
    low, high = np.percentile(np.concatenate(figures), [2.5, 97.5])
    return (float(low), float(high)) if low < high else None
