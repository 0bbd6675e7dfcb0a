"""What is kept of the rows with gold, against scikit-learn's scores of the same rows."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from sklearn.metrics import log_loss

from medtask.evaluation.calibration.scored_rows import ScoredRowAccumulator, compute_row_scores
from medtask.records import Answer, Status

LABELS = ("a", "b", "c")


def collect_scores(
    seed: int, rows: int = 60
) -> tuple[ScoredRowAccumulator, list[list[float]], list[str]]:
    chance = random.Random(seed)
    gatherer, table, truths = ScoredRowAccumulator(), [], []
    for row in range(1, rows + 1):
        shares = np.random.default_rng([seed, row]).dirichlet([1, 1, 1]).tolist()
        named = dict(zip(LABELS, shares, strict=True))
        value, truth = max(named, key=named.__getitem__), chance.choice(LABELS)
        gatherer.add(
            row,
            Answer(str(row), Status.OK, value, named[value], named),
            value == truth,
            truth,
            str(row % 9),
        )
        table.append(shares)
        truths.append(truth)
    return gatherer, table, truths


@pytest.mark.parametrize("seed", range(4))
def test_the_scores_of_whole_distributions_are_scikit_learns(seed: int) -> None:
    gatherer, table, truths = collect_scores(seed)
    marks = gatherer.finish()
    assert marks.log_loss.mean() == pytest.approx(log_loss(truths, table, labels=list(LABELS)))
    hot = np.array([[name == truth for name in LABELS] for truth in truths])
    assert marks.brier.mean() == pytest.approx(((np.array(table) - hot) ** 2).sum(axis=1).mean())
    assert marks.groups is not None and len(set(marks.groups.tolist())) == 9
    found = marks.compute_reliability()
    assert found is not None and found.distribution_scores["log_loss"].value == pytest.approx(
        marks.log_loss.mean()
    )


def test_several_labels_are_scored_one_by_one() -> None:
    loss, brier = compute_row_scores({"a": 0.9, "b": 0.2}, ("a",))
    assert loss == pytest.approx(log_loss([1, 0], [0.9, 0.2]))
    assert brier == pytest.approx((0.1**2 + 0.2**2) / 2)


def test_rows_without_an_answer_have_no_confidence_and_rows_without_a_group_are_alone() -> None:
    gatherer = ScoredRowAccumulator()
    gatherer.add(3, Answer("3", Status.FAILED), False, "a", None)
    gatherer.add(1, Answer("1", Status.OK, "a", 0.5), True, "a", "p")
    gatherer.add(2, Answer("2", Status.OK, ("a", "b"), 0.5), True, ("a", "b"), None)
    marks = gatherer.finish()
    assert marks.rows.tolist() == [1, 2, 3]
    assert [math.isnan(share) for share in marks.confidence] == [False, False, True]
    assert marks.groups is not None and len(set(marks.groups.tolist())) == 3
    assert marks.classes.tolist() == [0, -1, -1] and marks.class_names == ("a",)


def test_no_rows_and_no_confidence_measure_nothing() -> None:
    assert ScoredRowAccumulator().finish().compute_reliability() is None
    gatherer = ScoredRowAccumulator()
    gatherer.add(1, Answer("1", Status.OK, "a"), True, "a", None)
    assert gatherer.finish().compute_reliability() is None
