"""What the figures would be if two labels were one."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from medtask.evaluation.labels.merges import build_merge_findings, evaluate_merges
from medtask.evaluation.labels.pair_counts import build_pair_cells
from support.label_pairs import LABELS, count_label_pairs, make_confused_rows

ROWS = make_confused_rows()


def compute_reference_metrics(
    rows: list[tuple[str, str]], pair: tuple[str, str] | None = None
) -> tuple[float, float]:
    """Accuracy and macro-F1 over the labels in gold, by scikit-learn."""
    gold, answer = (
        ["+" if pair and name in pair else name for name in side]
        for side in zip(*rows, strict=True)
    )
    macro = f1_score(gold, answer, labels=sorted(set(gold)), average="macro", zero_division=0.0)
    return accuracy_score(gold, answer), macro


def test_the_changes_are_those_of_scikit_learns_figures() -> None:
    (merge,) = evaluate_merges(build_pair_cells(count_label_pairs(LABELS, ROWS)), [(2, 1)])
    (was, f1_was), (would_be, f1_would_be) = (
        compute_reference_metrics(ROWS),
        compute_reference_metrics(ROWS, ("b", "c")),
    )
    assert (merge.first, merge.second) == (1, 2)
    assert merge.accuracy.value == pytest.approx(would_be - was)
    assert merge.macro_f1.value == pytest.approx(f1_would_be - f1_was)
    pairs = [(one, other) for index, one in enumerate(LABELS) for other in LABELS[index + 1 :]]
    assert merge.median_change == pytest.approx(
        median(compute_reference_metrics(ROWS, pair)[1] - f1_was for pair in pairs)
    )
    assert merge.rows == sum(gold in ("b", "c") for gold, _ in ROWS)
    assert merge.distinguished_rows == sum(
        gold == answer for gold, answer in ROWS if gold in ("b", "c")
    )


@pytest.mark.slow
def test_the_interval_is_that_of_a_plain_paired_bootstrap() -> None:
    (merge,) = evaluate_merges(build_pair_cells(count_label_pairs(LABELS, ROWS)), [(1, 2)])
    random = np.random.default_rng(7)
    changes = []
    for _ in range(400):
        drawn = [ROWS[index] for index in random.integers(0, len(ROWS), len(ROWS))]
        changes.append(
            compute_reference_metrics(drawn, ("b", "c"))[1] - compute_reference_metrics(drawn)[1]
        )
    low, high = np.percentile(changes, [2.5, 97.5])
    assert merge.macro_f1.low == pytest.approx(low, abs=0.015)
    assert merge.macro_f1.high == pytest.approx(high, abs=0.015)


def test_of_several_labels_sets_are_compared() -> None:
    rows = [
        (("a",), ("b",)),
        (("a", "c"), ("a", "c")),
        (("b",), ("a", "b")),
        (("c",), ("c",)),
        ((), ()),
    ]
    (merge,) = evaluate_merges(build_pair_cells(count_label_pairs(["a", "b", "c"], rows)), [(0, 1)])
    gold, answer = (
        [[name in names for name in "abc"] for names in side] for side in zip(*rows, strict=True)
    )
    joined = [[[one or other, third] for one, other, third in side] for side in (gold, answer)]
    was, would_be = (
        f1_score(truth, given, average="macro", zero_division=0.0)
        for truth, given in ((gold, answer), joined)
    )
    assert merge.macro_f1.value == pytest.approx(would_be - was)
    assert merge.accuracy.value == pytest.approx(
        accuracy_score(*joined) - accuracy_score(gold, answer)
    )
    assert merge.accuracy.value == pytest.approx(2 / 5)


def test_a_row_without_an_answer_gains_nothing() -> None:
    rows: list[tuple[str | None, str | None]] = [*ROWS, *[("b", None)] * 50]
    (with_gaps,), (without,) = (
        evaluate_merges(build_pair_cells(count_label_pairs(LABELS, some)), [(1, 2)])
        for some in (rows, ROWS)
    )
    assert with_gaps.accuracy.value * len(rows) == pytest.approx(without.accuracy.value * len(ROWS))
    assert with_gaps.distinguished_rows == without.distinguished_rows


@pytest.mark.parametrize(
    ("labels", "rows", "pairs"),
    [
        (LABELS, [], [(0, 1)]),
        (LABELS, ROWS, []),
        (LABELS, [("a", "a"), ("b", "b"), ("c", "c")], [(0, 1)]),  # never confused
        (["a", "b"], [("a", "b")] * 5, [(0, 1)]),  # would leave one label
    ],
)
def test_without_a_reason_nothing_is_merged(
    labels: list[str], rows: list[tuple[str, str]], pairs: list[tuple[int, int]]
) -> None:
    assert evaluate_merges(build_pair_cells(count_label_pairs(labels, rows)), pairs) == []


def test_the_abstention_is_merged_with_nothing() -> None:
    rows = [("a", "unknown")] * 9 + [("b", "b")] * 9 + [("unknown", "a")] * 9
    assert (
        evaluate_merges(
            build_pair_cells(count_label_pairs(["a", "b", "unknown"], rows)), [(0, 2)], abstain=2
        )
        == []
    )


def test_a_finding_reports_what_is_lost_and_what_any_merge_brings() -> None:
    merges = evaluate_merges(build_pair_cells(count_label_pairs(LABELS, ROWS)), [(1, 2)])
    (output,) = build_merge_findings(merges, LABELS)
    assert f"{merges[0].distinguished_rows:,} of {merges[0].rows:,} rows" in output.advice
    assert f"merging any two: {merges[0].median_change:+.3f}" in output.seen
    assert output.figures["macro_f1_change"]["n"] == len(ROWS)
