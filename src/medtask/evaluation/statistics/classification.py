"""Metrics of single-label answers from a table of gold by answer.

One function computes the values and those of every draw of the bootstrap. It equals scikit-learn,
whose import takes longer than a small run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    ResamplingUnits,
    bootstrap_intervals,
    build_estimate,
    compute_wilson_interval,
    divide_or_nan,
    estimate_clustered_proportion,
)

TOP_K = (3, 5)
# The last part of a cell is the index in TOP_K of the first k that includes gold, or this
NOT_IN_TOP_K = len(TOP_K)


@dataclass(frozen=True, slots=True)
class PerClassMetrics:
    """Precision, recall and F1 of one label, and its number of rows in gold and in answers.

    Undefined metrics are None.
    """

    label: str
    gold: int
    answered: int
    precision: Metric | None
    recall: Metric | None
    f1: Metric | None


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """Metrics over all rows with gold; a row without an answer counts as wrong.

    Attributes:
        accuracy: Share of right rows.
        accuracy_answered: The same over rows with a label; None without such rows.
        macro_f1: Mean F1 of the labels that occur in gold.
        balanced_accuracy: Mean recall of these labels.
        weighted_f1: Mean F1 weighted by frequency in gold.
        kappa: Cohen's kappa (1960), with "no answer" as a further class; None if gold has one
            label.
        mcc: Matthews correlation of many classes (Gorodkin 2004), likewise; None also if the
            answers have one label.
        top_3: Share of rows whose gold is among the three likeliest labels; None if not computed.
        top_5: The same of five labels.
        labels: Metrics of the labels that occur.
        groups: Number of resampling units; see `ResamplingUnits`.
    """

    accuracy: Metric
    accuracy_answered: Metric | None
    macro_f1: Metric
    balanced_accuracy: Metric
    weighted_f1: Metric
    kappa: Metric | None
    mcc: Metric | None
    top_3: Metric | None
    top_5: Metric | None
    labels: tuple[PerClassMetrics, ...]
    groups: int | None


def compute_metrics_from_cells(
    cells: IntArray,
    units: ResamplingUnits,
    classes: Sequence[str],
    *,
    abstain: str | None = None,
    top_k: Sequence[int] = (),
    seed: int = 0,
) -> ClassificationMetrics | None:
    """Computes the metrics of rows counted by gold and answer.

    Args:
        cells: Indices of gold and answer in ``classes``, [cells, 2]; len(classes) for no answer. A
            third column has the index in `TOP_K` of the first that includes gold.
        units: Number of rows of each cell, and which belong together.
        classes: The classes.
        abstain: The class that means "no label". It is right if gold has it, but such rows are
            not answered rows.
        top_k: Members of `TOP_K` to compute.
        seed: Seed of the bootstrap.

    Returns:
        The metrics; None without rows.
    """
    n = units.n_rows
    if n == 0:
        return None
    truth, given = cells[:, 0], cells[:, 1]
    unit_sums = _ClassificationSums(truth, given, units, len(classes))
    bounds = bootstrap_intervals(
        units.counts, unit_sums.compute_metrics, width=unit_sums.width, seed=seed
    )
    found = unit_sums.compute_metrics(units.counts[None])[0, :5].tolist()
    values = [None if math.isnan(value) else value for value in found]
    answered = given < len(classes)
    if abstain is not None and abstain in classes:
        answered &= given != list(classes).index(abstain)
    hits, every = truth == given, np.ones(len(cells), dtype=bool)
    top = {
        size: estimate_clustered_proportion(
            cells[:, 2] <= TOP_K.index(size), every, units, seed=seed
        )
        for size in top_k
    }
    accuracy = estimate_clustered_proportion(hits, every, units, seed=seed)
    macro, balanced, weighted, kappa, mcc = (
        build_estimate(value, n, bounds[:, place]) for place, value in enumerate(values)
    )
    assert accuracy is not None
    assert macro is not None
    assert balanced is not None
    assert weighted is not None
    return ClassificationMetrics(
        accuracy=accuracy,
        accuracy_answered=estimate_clustered_proportion(hits, answered, units, seed=seed),
        macro_f1=macro,
        balanced_accuracy=balanced,
        weighted_f1=weighted,
        kappa=kappa,
        mcc=mcc,
        top_3=top.get(3),
        top_5=top.get(5),
        labels=_compute_per_class_metrics(unit_sums, classes, bounds[:, len(values) :], units),
        groups=units.n_groups,
    )


def compute_class_metrics(
    name: str,
    counts: Sequence[int],
    bounds: FloatArray,
    group_counts: tuple[int, int] | None = None,
) -> PerClassMetrics:
    """Metrics of one label from its rows in gold and answer, in gold, and in the answer.

    ``bounds`` [2, 3] are bootstrap intervals of precision, recall and F1; the first two are used if
    rows have groups. ``group_counts`` are groups with the label in an answer, and in gold.
    """
    both, gold, answered = counts
    shares = []
    for place, n in enumerate((answered, gold)):
        if group_counts is None:
            low, high = compute_wilson_interval(both, n)
        else:
            low, high = bounds[:, place]
            if np.isnan(low) and n:  # all groups are alike; see estimate_clustered_proportion
                rows = group_counts[place]
                low, high = compute_wilson_interval(round(both / n * rows), rows)
        shares.append(build_estimate(both / n if n else None, n, np.array([low, high])))
    either = gold + answered - both
    f1 = build_estimate(
        2 * both / (gold + answered) if gold + answered else None, either, bounds[:, 2]
    )
    return PerClassMetrics(name, gold, answered, shares[0], shares[1], f1)


class _ClassificationSums:
    """Counts of each used label per kind of unit: in gold, in the answer, and in both."""

    def __init__(
        self, truth: IntArray, given: IntArray, units: ResamplingUnits, classes: int
    ) -> None:
        from scipy.sparse import csr_array

        self.places = np.setdiff1d(np.union1d(truth, given), [classes])
        column = np.full(classes + 1, len(self.places))
        column[self.places] = np.arange(len(self.places))
        self.width = len(self.places) + 1  # the last column is for no answer
        each, ones, shape = np.arange(len(truth)), np.ones(len(truth)), (len(truth), self.width)
        self.gold = units.sum_per_unit(csr_array((ones, (each, column[truth])), shape=shape))
        self.given = units.sum_per_unit(csr_array((ones, (each, column[given])), shape=shape))
        self.both = units.sum_per_unit(
            csr_array(((truth == given).astype(float), (each, column[truth])), shape=shape)
        )
        self.units = units

    def compute_metrics(self, drawn: Any) -> FloatArray:
        """Metrics of draws, [draws, kinds] to [draws, 5 + 3 * labels]; NaN if undefined.

        Macro-F1, balanced accuracy, weighted F1, kappa, MCC; then precision, recall and F1 of each
        label.
        """
        both, gold, given = (
            np.asarray(drawn @ one, dtype=np.float64) for one in (self.both, self.gold, self.given)
        )
        n = gold.sum(axis=1)
        recall = divide_or_nan(both, gold)
        precision = divide_or_nan(both, given)
        f1 = divide_or_nan(2 * both, gold + given)
        occurs = gold > 0
        several = occurs.sum(axis=1)
        known = np.where(occurs, f1, 0)
        right, chance = both.sum(axis=1) * n, (gold * given).sum(axis=1)
        spread_gold, spread_given = n**2 - (gold**2).sum(axis=1), n**2 - (given**2).sum(axis=1)
        whole = [
            divide_or_nan(known.sum(axis=1), several),
            divide_or_nan(np.where(occurs, recall, 0).sum(axis=1), several),
            divide_or_nan((known * gold).sum(axis=1), n),
            divide_or_nan(right - chance, np.where(several > 1, n**2 - chance, 0)),
            divide_or_nan(
                right - chance,
                np.sqrt(np.maximum(spread_gold, 0)) * np.sqrt(np.maximum(spread_given, 0)),
            ),
        ]
        return np.column_stack([*whole, precision[:, :-1], recall[:, :-1], f1[:, :-1]])


def _compute_per_class_metrics(
    unit_sums: _ClassificationSums,
    classes: Sequence[str],
    bounds: FloatArray,
    units: ResamplingUnits,
) -> tuple[PerClassMetrics, ...]:
    sums = [
        np.asarray(units.counts @ one, dtype=np.int64)
        for one in (unit_sums.both, unit_sums.gold, unit_sums.given)
    ]
    groups = None
    if units.n_groups is not None:
        groups = [
            (units.counts @ (one > 0)).astype(np.int64).tolist()
            for one in (unit_sums.given, unit_sums.gold)
        ]
    by_label = bounds.reshape(2, 3, -1)
    return tuple(
        compute_class_metrics(
            classes[place],
            [int(one[column]) for one in sums],
            by_label[:, :, column],
            (groups[0][column], groups[1][column]) if groups else None,
        )
        for column, place in enumerate(unit_sums.places.tolist())
    )
