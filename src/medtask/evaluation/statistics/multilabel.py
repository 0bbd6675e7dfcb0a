"""Metrics of answers that are sets of labels: exact match, Jaccard, Hamming loss, F1 scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtask.evaluation.statistics.classification import PerClassMetrics, compute_class_metrics
from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    ResamplingUnits,
    bootstrap_intervals,
    build_estimate,
    divide_or_nan,
    estimate_clustered_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.resampling import CellCounter, GroupCounts

LabelNames = Collection[str]
_BOTH, _GOLD, _ANSWER = range(3)


@dataclass(frozen=True, slots=True)
class MultiLabelMetrics:
    """Metrics of answers that are sets of labels, over all rows with gold.

    A row without an answer is not an exact match, has a Jaccard index and an F1 of 0, and a Hamming
    loss of 1.

    Attributes:
        exact_match: Share of answers equal to gold.
        exact_answered: Exact match over rows with an answer; None without such rows.
        jaccard: Mean of intersection over union of gold and answer; two empty sets are equal.
        hamming_loss: Mean share of labels that are wrongly chosen or not chosen; None if the number
            of options is unknown for any row.
        sample_f1: Mean F1 of the rows.
        micro_f1: F1 of all decisions together; None if no row has a label.
        macro_f1: Mean F1 of the labels that occur in gold; None if no label does.
        labels: Metrics of the labels that occur.
        gold_mean: Mean number of labels in gold.
        answered_mean: Mean number of labels of answered rows; None without such rows.
        groups: Number of resampling units; see `ResamplingUnits`.
    """

    exact_match: Metric
    exact_answered: Metric | None
    jaccard: Metric
    hamming_loss: Metric | None
    sample_f1: Metric
    micro_f1: Metric | None
    macro_f1: Metric | None
    labels: tuple[PerClassMetrics, ...]
    gold_mean: float
    answered_mean: float | None
    groups: int | None


class MultiLabelMetricsAccumulator:
    """Sums up pairs of label sets, row by row.

    Memory grows with the number of labels and of distinct set sizes and, if rows have groups, with
    the number of rows.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._index = {name: place for place, name in enumerate(self._classes)}
        # In both, in gold, in the answer.
        self._table = np.zeros((3, len(self._classes)), dtype=np.int64)
        # (in both, in gold, in the answer, answered, number of options).
        self._tally = CellCounter()
        self._alone = 0
        self._sums = GroupCounts()

    def add(
        self,
        gold: LabelNames,
        given: LabelNames | None,
        group: str | None = None,
        *,
        n_options: int | None = None,
    ) -> None:
        """Adds one row.

        Args:
            gold: Gold labels.
            given: Labels of the answer; None if it is missing.
            group: Group of the row.
            n_options: Number of options of the row, 0 if unknown; default: number of classes.

        Raises:
            KeyError: If a label is not a class.
        """
        gold_names, answer_names = frozenset(gold), frozenset(given or ())
        found = [
            (line, self._index[name])
            for line, names in enumerate((gold_names & answer_names, gold_names, answer_names))
            for name in names
        ]
        for line, place in found:
            self._table[line, place] += 1
        n_options = len(self._classes) if n_options is None else n_options
        self._tally.add(
            (
                len(gold_names & answer_names),
                len(gold_names),
                len(answer_names),
                int(given is not None),
                n_options,
            ),
            group,
        )
        if group:
            self._sums.add(group, found)
        else:
            self._alone += 1

    def compute_metrics(
        self,
        gold: Sequence[LabelNames],
        answers: Sequence[LabelNames | None],
        groups: Sequence[str | None] = (),
        *,
        seed: int = 0,
    ) -> MultiLabelMetrics | None:
        """The metrics of all added rows; None without rows.

        ``gold``, ``answers`` and ``groups`` are all rows or a random sample of them, in a fixed
        order. Intervals of labels and of macro-F1 are computed from these rows if rows have no
        groups.
        """
        cells, units = self._tally.finish()
        if not units.n_rows:
            return None
        both, gold_sizes, answer_sizes, answered, n_options = cells.T
        exact = (both == gold_sizes) & (gold_sizes == answer_sizes) & (answered > 0)
        every = np.ones(len(cells), dtype=np.int64)
        either, sizes = gold_sizes + answer_sizes - both, gold_sizes + answer_sizes
        jaccard = np.where(exact, 1.0, both / np.maximum(1, either))
        by_row = np.where(exact, 1.0, 2 * both / np.maximum(1, sizes))
        wrong = np.where(answered > 0, (either - both) / np.maximum(1, n_options), 1.0)
        whole = estimate_clustered_proportion(exact, every, units, seed=seed)
        means = [
            estimate_ratio(values, every, units, seed=seed) for values in (jaccard, by_row, wrong)
        ]
        assert whole is not None
        assert means[0] is not None
        assert means[1] is not None
        macro, labels = self._compute_per_label_metrics(gold, answers, groups, units, seed)
        with_answer = int(units.count_rows_per_cell()[answered > 0].sum())
        return MultiLabelMetrics(
            exact_match=whole,
            exact_answered=estimate_clustered_proportion(exact, answered, units, seed=seed),
            jaccard=means[0],
            hamming_loss=means[2] if (n_options[answered > 0] > 0).all() else None,
            sample_f1=means[1],
            micro_f1=estimate_ratio(2 * both, sizes, units, seed=seed),
            macro_f1=macro,
            labels=labels,
            gold_mean=float(self._table[_GOLD].sum() / units.n_rows),
            answered_mean=float(self._table[_ANSWER].sum() / with_answer) if with_answer else None,
            groups=units.n_groups,
        )

    def _compute_per_label_metrics(
        self,
        gold: Sequence[LabelNames],
        answers: Sequence[LabelNames | None],
        groups: Sequence[str | None],
        units: ResamplingUnits,
        seed: int,
    ) -> tuple[Metric | None, tuple[PerClassMetrics, ...]]:
        """Macro-F1, and metrics of the used labels, of all rows.

        Intervals are bootstrapped from the sampled rows (and all groups), with as many units per
        draw as there are in all rows, and shifted to the values of all rows.
        """
        used = np.flatnonzero(self._table.any(axis=0))
        sums, counts, n = self._build_unit_sums(gold, answers, groups, units)
        sums = [one[:, used] for one in sums]

        def measure(drawn: Any) -> FloatArray:
            return _compute_f1_metrics([np.asarray(drawn @ one, dtype=np.float64) for one in sums])

        bounds = bootstrap_intervals(counts, measure, n_units=n, width=max(1, len(used)), seed=seed)
        values = _compute_f1_metrics([line[None, used].astype(np.float64) for line in self._table])[
            0
        ]
        if bounds.shape[1] != len(values):  # there are no rows to draw from
            bounds = np.full((2, len(values)), np.nan)
        else:
            bounds = np.clip(bounds + values - measure(counts[None])[0], 0, 1)
        by_label = bounds[:, 1:].reshape(2, 3, -1)
        having = [
            np.asarray(counts @ (sums[line] > 0)).round().astype(np.int64).tolist()
            for line in (_ANSWER, _GOLD)
        ]
        labels = tuple(
            compute_class_metrics(
                self._classes[place],
                self._table[:, place].tolist(),
                by_label[:, :, column],
                None if units.n_groups is None else (having[0][column], having[1][column]),
            )
            for column, place in enumerate(used.tolist())
        )
        return build_estimate(values[0], units.n_rows, bounds[:, 0]), labels

    def _build_unit_sums(
        self,
        gold: Sequence[LabelNames],
        answers: Sequence[LabelNames | None],
        groups: Sequence[str | None],
        units: ResamplingUnits,
    ) -> tuple[list[Any], IntArray | FloatArray, int]:
        """Counts of each label per kind of unit, weights of the kinds, and number of units.

        The counts are three sparse arrays [kinds, labels]: in both, in gold, in the answer. A
        sampled row without a group is weighted by the number of such rows that it represents.
        """
        from scipy.sparse import vstack

        grouped = units.n_groups is not None
        lone = [row for row in range(len(gold)) if not (grouped and groups and groups[row])]
        # A fixed order: the intervals of a table do not depend on the order of its rows.
        rows = [
            (frozenset(truth), frozenset(given))
            for truth, given in sorted(
                (sorted(set(gold[row])), sorted(set(answers[row] or ()))) for row in lone
            )
        ]
        marks = (
            [one & other for one, other in rows],
            [one for one, _ in rows],
            [other for _, other in rows],
        )
        sums = [self._build_indicator_matrix(names) for names in marks]
        if not grouped:
            return sums, np.ones(len(lone), dtype=np.int64), units.n_rows
        width = len(self._classes)
        table = self._sums.to_sparse([(line, place) for line in range(3) for place in range(width)])
        of_groups = [table[:, line * width : (line + 1) * width] for line in range(3)]
        share = np.full(
            len(lone), 1 if self._alone == len(lone) else self._alone / max(1, len(lone))
        )
        counts = np.concatenate([share, np.ones(of_groups[0].shape[0], dtype=np.int64)])
        return (
            [
                vstack([one, other], format="csr")
                for one, other in zip(sums, of_groups, strict=True)
            ],
            counts,
            round(float(counts.sum())),
        )

    def _build_indicator_matrix(self, rows: Sequence[LabelNames]) -> Any:
        """Sparse [rows, classes]; 1 if the row has the label."""
        from scipy.sparse import csr_array

        places = [
            (row, self._index[name]) for row, names in enumerate(rows) for name in sorted(names)
        ]
        row, column = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return csr_array(
            (np.ones(len(places)), (row, column)), shape=(len(rows), len(self._classes))
        )


def _compute_f1_metrics(sums: Sequence[FloatArray]) -> FloatArray:
    """Macro-F1, then precision, recall and F1 of each label, [draws, 1 + 3 * labels].

    ``sums`` are rows with the label in both, in gold and in the answer, [draws, labels] each.
    """
    both, gold, predicted = sums
    f1, occurs = divide_or_nan(2 * both, gold + predicted), gold > 0
    macro = divide_or_nan(np.where(occurs, f1, 0).sum(axis=1), occurs.sum(axis=1))
    return np.column_stack([macro, divide_or_nan(both, predicted), divide_or_nan(both, gold), f1])


def compute_jaccard(gold: LabelNames, answer: LabelNames | None) -> float:
    """Intersection over union of two sets; 1 if both are empty."""
    truth, given = frozenset(gold), frozenset(answer or ())
    if answer is not None and truth == given:
        return 1.0
    return len(truth & given) / max(1, len(truth | given))


def compute_micro_f1_terms(
    gold: Sequence[LabelNames], answers: Sequence[LabelNames | None]
) -> tuple[FloatArray, FloatArray]:
    """Numerator and denominator of micro-F1 by row; see `compare_by_randomisation`."""
    pairs = [
        (frozenset(truth), frozenset(given or ()))
        for truth, given in zip(gold, answers, strict=True)
    ]
    return np.array([2.0 * len(truth & answer) for truth, answer in pairs]), np.array(
        [float(len(truth) + len(answer)) for truth, answer in pairs]
    )
