"""Pairs of labels that are often confused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.labels.confusion import (
    build_confusion_findings,
    count_confusions,
    find_confused_pairs,
)
from medtask.evaluation.labels.pair_counts import build_pair_cells
from medtask.evaluation.statistics.significance import ALPHA
from support.label_pairs import LABELS, count_label_pairs, make_confused_rows


def test_only_the_pair_that_is_confused_is_found_and_its_p_value_is_fishers() -> None:
    rows = make_confused_rows()
    found = find_confused_pairs(build_pair_cells(count_label_pairs(LABELS, rows)))
    assert [(pair.gold, pair.answer) for pair in found] == [(1, 2)]
    p = []
    for one in LABELS:
        for other in LABELS:
            if one != other:
                apart = [(gold == one, answer == other) for gold, answer in rows if gold != other]
                table = [
                    [sum(1 for cell in apart if cell == (x, y)) for y in (True, False)]
                    for x in (True, False)
                ]
                p.append(fisher_exact(table, alternative="greater").pvalue)
    adjusted = multipletests(p, method="fdr_by")[1]
    assert found[0].p == pytest.approx(min(adjusted[4], adjusted[7]))  # of b and c, and of c and b
    assert found[0].p <= ALPHA


def test_shares_have_wilsons_intervals_both_ways() -> None:
    rows = make_confused_rows()
    (pair,) = find_confused_pairs(build_pair_cells(count_label_pairs(LABELS, rows)))
    hits, n = sum(row == ("b", "c") for row in rows), sum(gold == "b" for gold, _ in rows)
    low, high = proportion_confint(hits, n, method="wilson")
    assert (pair.share.value, pair.share.low, pair.share.high) == pytest.approx(
        (hits / n, low, high)
    )
    back = sum(row == ("c", "b") for row in rows)
    assert pair.reverse_share is not None
    assert round(pair.reverse_share.value * pair.reverse_share.n) == back
    assert pair.rows == hits + back


def test_a_label_that_is_answered_to_everything_is_confused_with_nothing_in_particular() -> None:
    rows = [(gold, "a") for gold in LABELS for _ in range(20)]
    assert find_confused_pairs(build_pair_cells(count_label_pairs(LABELS, rows))) == []


def test_of_answers_that_know_nothing_of_gold_five_in_a_hundred_sets_show_a_pair_at_most() -> None:
    random = np.random.default_rng(1)
    shown = 0
    for _ in range(100):
        rows = list(zip(random.choice(LABELS, 120), random.choice(LABELS, 120), strict=True))
        shown += bool(
            find_confused_pairs(
                build_pair_cells(
                    count_label_pairs(LABELS, [(str(gold), str(answer)) for gold, answer in rows])
                )
            )
        )
    assert shown <= 5


def test_of_several_labels_it_is_what_the_answer_adds_to_gold() -> None:
    cells = build_pair_cells(
        count_label_pairs(
            ["a", "b", "c"],
            [(("a",), ("a", "b"))] * 3 + [(("a", "b"), ("b",))] * 2 + [(("c",), ())],
        )
    )
    hits, apart = count_confusions(cells)
    assert hits[0, 1] == 3
    assert apart[0, 1] == 3  # rows whose gold has both cannot confuse them
    assert hits[1, 0] == 0


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["a", "b", "c"], []),
        (["a", "b", "c"], [("a", "b")]),
        (["a", "b", "c"], [("a", None)] * 9),
        (["a", "b", "c"], [("a", "a")] * 9),
        (["a", "b"], [("a", "b")] * 9 + [("b", "b")] * 9),
        (["a"], [("a", "a")] * 9),
    ],
)
def test_too_little_finds_nothing(labels: list[str], rows: list[tuple[str, str | None]]) -> None:
    assert find_confused_pairs(build_pair_cells(count_label_pairs(labels, rows))) == []


def test_advice_for_rows_that_should_have_been_answered_is_about_how_little_is_enough() -> None:
    rows = [("a", "unknown")] * 20 + [("b", "b")] * 20 + [("c", "c")] * 20
    counted = count_label_pairs(["a", "b", "c", "unknown"], rows, abstain="unknown")
    (output,) = build_confusion_findings(
        find_confused_pairs(build_pair_cells(counted)), counted.labels, "unknown"
    )
    assert output.labels == ("a", "unknown")
    assert "how little" in output.advice
    assert "20 of 20 rows" in output.seen
