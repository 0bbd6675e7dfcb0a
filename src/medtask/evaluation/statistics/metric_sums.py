"""Metrics as functions of sums over rows, so that two systems can be resampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    ResamplingUnits,
    bootstrap_interval,
    compute_macro_f1,
    divide_or_nan,
    estimate_clustered_proportion,
)
from medtask.evaluation.statistics.multilabel import LabelNames


@dataclass(frozen=True, slots=True, eq=False)
class MetricSums:
    """One metric of one system.

    Attributes:
        row_sums: What each row adds, sparse [rows, columns].
        compute: Maps totals [draws, columns] to metrics [draws].
    """

    row_sums: Any
    compute: Callable[[FloatArray], FloatArray]

    def take_first(self, rows: int) -> MetricSums:
        """The sums of the first rows."""
        return (
            self
            if self.row_sums.shape[0] == rows
            else MetricSums(self.row_sums[:rows], self.compute)
        )

    def compute_value(self) -> float:
        return float(
            self.compute(np.asarray(self.row_sums.sum(axis=0), dtype=np.float64).reshape(1, -1))[0]
        )


def estimate_metric(metric_sums: MetricSums, units: ResamplingUnits, *, seed: int = 0) -> Metric:
    """The metric with a bootstrap interval over ``units``."""
    return _bootstrap_metric(metric_sums.row_sums, metric_sums.compute, units, seed)


def estimate_proportion_metric(
    metric_sums: MetricSums, units: ResamplingUnits, *, seed: int = 0
) -> Metric:
    """A share of rows such as accuracy, with Wilson's interval if rows are independent."""
    hits = metric_sums.row_sums.toarray()[:, 0] > 0
    found = estimate_clustered_proportion(hits, np.ones(len(hits), dtype=bool), units, seed=seed)
    return found or estimate_metric(metric_sums, units, seed=seed)


def estimate_difference(
    first: MetricSums, second: MetricSums, units: ResamplingUnits, *, seed: int = 0
) -> Metric:
    """By how much the first metric is higher, with a paired bootstrap interval."""
    from scipy.sparse import hstack

    split = first.row_sums.shape[1]

    def gap(totals: FloatArray) -> FloatArray:
        return first.compute(totals[:, :split]) - second.compute(totals[:, split:])

    return _bootstrap_metric(hstack([first.row_sums, second.row_sums]).tocsr(), gap, units, seed)


def _bootstrap_metric(
    sums: Any, compute: Callable[[FloatArray], FloatArray], units: ResamplingUnits, seed: int
) -> Metric:
    each, counts = _merge_identical_units(units.sum_per_unit(sums).tocsr(copy=True), units.counts)

    def draw(drawn: IntArray | FloatArray) -> FloatArray:
        return compute(np.asarray(drawn @ each, dtype=np.float64))

    interval = bootstrap_interval(counts, draw, width=each.shape[1], seed=seed) or (None, None)
    return Metric(float(draw(counts[None])[0]), sums.shape[0], *interval)


def _merge_identical_units(sums: Any, counts: IntArray) -> tuple[Any, IntArray]:
    """Merge units with equal sums, because the bootstrap's time depends on the distinct ones.

    The result, and so an interval, does not depend on the order of the units.
    """
    sums.sum_duplicates()
    sums.eliminate_zeros()
    keys = [
        (sums.indices[start:end].tobytes(), sums.data[start:end].tobytes())
        for start, end in pairwise(sums.indptr.tolist())
    ]
    cells = {key: place for place, key in enumerate(sorted(set(keys)))}
    place = np.array([cells[key] for key in keys], dtype=np.int64)
    merged = np.zeros(len(cells), dtype=np.int64)
    np.add.at(merged, place, counts)
    return sums[np.unique(place, return_index=True)[1]], merged


def build_mean_sums(values: Sequence[float]) -> MetricSums:
    return build_ratio_sums(np.array(values, dtype=np.float64), np.ones(len(values)))


def build_ratio_sums(numerator: FloatArray, denominator: FloatArray) -> MetricSums:
    from scipy.sparse import csr_array

    return MetricSums(
        csr_array(np.stack([numerator, denominator], axis=1)),
        lambda totals: divide_or_nan(totals[:, 0], totals[:, 1]),
    )


def build_macro_f1_sums(
    labels: Sequence[str], pairs: Sequence[tuple[LabelNames, LabelNames]]
) -> MetricSums:
    """Three columns per label: in gold and answer, in gold, and the sum of gold and answer."""
    from scipy.sparse import coo_array

    index, width = {name: place for place, name in enumerate(labels)}, len(labels)
    cells: list[tuple[int, int]] = []
    for row, (truth, given) in enumerate(pairs):
        both = set(truth) & set(given)
        cells += [(row, index[name]) for name in both]
        cells += [(row, block * width + index[name]) for name in truth for block in (1, 2)]
        cells += [(row, 2 * width + index[name]) for name in given]
    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    sums = coo_array((np.ones(len(cells)), (rows, columns)), shape=(len(pairs), 3 * width)).tocsr()
    return MetricSums(
        sums,
        lambda totals: compute_macro_f1(
            *(totals[:, block * width : (block + 1) * width] for block in range(3))
        ),
    )
