"""How metrics would change if two labels were merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median

import numpy as np

from medtask.display import isolate_name
from medtask.evaluation.labels.confusion import count_confusions
from medtask.evaluation.labels.finding import LabelFinding
from medtask.evaluation.labels.pair_counts import Flags, PairCells
from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    bootstrap_interval,
    compute_macro_f1,
    estimate_proportion,
)

MAX_PAIRS_TRIED = 10  # pairs that are evaluated, the most confused ones
MAX_PAIRS_SAMPLED = 300  # maximum number of pairs for the median change of any merge

LabelPair = tuple[int, int]
F1Terms = list[FloatArray]


@dataclass(frozen=True, slots=True)
class LabelMerge:
    """Two labels merged into one.

    Attributes:
        first: Index of the first label.
        second: Index of the second label.
        macro_f1: Change of macro-F1.
        accuracy: Change of accuracy.
        median_change: Median change of macro-F1 over all pairs of labels.
        rows: Number of rows whose gold has either label.
        distinguished_rows: Number of these that are right without the merge.
    """

    first: int
    second: int
    macro_f1: Metric
    accuracy: Metric
    median_change: float
    rows: int
    distinguished_rows: int


def evaluate_merges(
    cells: PairCells, pairs: Iterable[LabelPair], *, abstain: int | None = None
) -> list[LabelMerge]:
    """Merges of ``pairs`` that raise macro-F1 more than the median merge does, best first.

    Only the given pairs are tried: if the model answers one label for most rows, merging it with
    any other would raise macro-F1. Both metrics are computed from the same draws, with and without
    the merge.
    """
    labels = cells.gold.shape[1]
    if not cells.n or labels < 3:
        return []
    hits, _ = count_confusions(cells)
    both_ways = hits + hits.T
    confused = {(min(pair), max(pair)) for pair in pairs if both_ways[pair] and abstain not in pair}
    candidates = sorted(sorted(confused), key=lambda pair: -both_ways[pair])
    totals = _compute_f1_terms(cells.gold, cells.answer)
    median_change = _compute_median_change(
        cells,
        [pair for pair in combinations(range(labels), 2) if abstain not in pair],
        totals,
    )
    merges = [
        _evaluate_merge(cells, pair, median_change, totals) for pair in candidates[:MAX_PAIRS_TRIED]
    ]
    gains = [
        merge
        for merge in merges
        if merge.macro_f1.value > max(0.0, median_change) and (merge.macro_f1.low or 0.0) >= 0
    ]
    return sorted(
        gains,
        key=lambda merge: (
            -(merge.macro_f1.low or 0.0),
            -merge.macro_f1.value,
            merge.first,
            merge.second,
        ),
    )


def build_merge_findings(merges: Sequence[LabelMerge], labels: Sequence[str]) -> list[LabelFinding]:
    return [_build_finding(merge, labels) for merge in merges[:MAX_PAIRS_TRIED]]


def _evaluate_merge(
    cells: PairCells, pair: LabelPair, median_change: float, totals: F1Terms
) -> LabelMerge:
    change = _make_change_function(cells, pair, totals)
    before = (cells.gold, cells.answer)
    after = (_merge_flags(cells.gold, pair), _merge_flags(cells.answer, pair))
    value = float(change(cells.rows[None, :])[0])
    interval = bootstrap_interval(cells.rows, change, width=cells.gold.shape[1]) or (None, None)
    right, merged = (
        (gold == answer).all(axis=1) & cells.answered for gold, answer in (before, after)
    )
    gained = estimate_proportion(int(cells.rows[merged & ~right].sum()), cells.n)
    assert gained is not None
    either = cells.gold[:, list(pair)].any(axis=1)
    kept = either & (cells.gold == cells.answer)[:, list(pair)].all(axis=1) & cells.answered
    return LabelMerge(
        *pair,
        macro_f1=Metric(value, cells.n, *interval),
        accuracy=gained,
        median_change=median_change,
        rows=int(cells.rows[either].sum()),
        distinguished_rows=int(cells.rows[kept].sum()),
    )


def _make_change_function(
    cells: PairCells, pair: LabelPair, totals: F1Terms
) -> Callable[[IntArray], FloatArray]:
    """Macro-F1 of each draw with the pair merged, minus macro-F1 without."""
    places = list(pair)
    joined = _compute_f1_terms(
        _merge_flags(cells.gold[:, places], (0, 1)), _merge_flags(cells.answer[:, places], (0, 1))
    )

    def change(drawn: IntArray) -> FloatArray:
        rows = drawn.astype(np.float64)
        sums = [rows @ columns for columns in totals]
        was = compute_macro_f1(*sums)
        for total, columns in zip(sums, joined, strict=True):
            total[:, places] = rows @ columns
        return np.asarray(compute_macro_f1(*sums) - was, dtype=np.float64)

    return change


def _compute_median_change(cells: PairCells, pairs: Sequence[LabelPair], totals: F1Terms) -> float:
    """Median change of macro-F1 over pairs of labels, or a sample of them."""
    if len(pairs) > MAX_PAIRS_SAMPLED:
        places = np.random.default_rng(0).choice(len(pairs), MAX_PAIRS_SAMPLED, replace=False)
        pairs = [pairs[place] for place in places]
    return median(
        [float(_make_change_function(cells, pair, totals)(cells.rows[None])[0]) for pair in pairs]
        or [0.0]
    )


def _merge_flags(flags: Flags, pair: LabelPair) -> Flags:
    """Replace the second label by the first. The second becomes unused, and macro-F1 ignores it."""
    joined = flags.copy()
    joined[:, pair[0]] |= flags[:, pair[1]]
    joined[:, pair[1]] = False
    return joined


def _compute_f1_terms(gold: Flags, answer: Flags) -> F1Terms:
    """Terms of macro-F1 [cells, labels], as floats because these multiply faster."""
    return [
        (gold & answer).astype(np.float64),
        gold.astype(np.float64),
        gold.astype(np.float64) + answer,
    ]


def _build_finding(merge: LabelMerge, labels: Sequence[str]) -> LabelFinding:
    first, second = labels[merge.first], labels[merge.second]
    f1, accuracy = merge.macro_f1, merge.accuracy
    interval = "no interval" if f1.low is None else f"{f1.low:+.3f} to {f1.high:+.3f}"
    seen = (
        f"with {isolate_name(first)} and {isolate_name(second)} as one label macro-F1 would change "
        f"by {f1.value:+.3f} ({interval}, n = {f1.n:,}; merging any two: "
        f"{merge.median_change:+.3f}) and accuracy by {accuracy.value:+.3f} ({accuracy.low:+.3f} "
        f"to {accuracy.high:+.3f})"
    )
    advice = (
        "merge them only if nobody needs the difference: now it is recognised in "
        f"{merge.distinguished_rows:,} of {merge.rows:,} rows, and that is lost; a merge raises "
        "these metrics even if answers are no better"
    )
    figures = {
        "macro_f1_change": asdict(f1),
        "accuracy_change": asdict(accuracy),
        "usual_change": merge.median_change,
        "rows": merge.rows,
        "told_apart": merge.distinguished_rows,
    }
    return LabelFinding("merge", "look", (first, second), seen, advice, figures, f1.low or 0.0)
