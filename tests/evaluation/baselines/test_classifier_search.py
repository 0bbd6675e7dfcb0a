"""The search for the settings of a text classifier."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medtask.evaluation.baselines.classifier_search import (
    MAX_EVALUATIONS,
    HeldOutRows,
    build_folds,
    compute_loss_and_accuracy,
    evaluate_settings,
    search_settings,
)
from medtask.evaluation.baselines.text_classifier import TermCounts, count_terms

LABELS = tuple(f"label {number}" for number in range(4))


def make_texts(rows: int, words: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Random texts in which a tenth of the words depend on the label."""
    random = np.random.default_rng(seed)
    vocabulary = np.array(["".join(random.choice(list("abcdefghij"), 7)) for _ in range(3000)])
    gold = random.integers(0, len(LABELS), rows)
    drawn = random.integers(0, len(vocabulary), (rows, words))
    drawn[:, : words // 10 + 1] = 10 * gold[:, None] + random.integers(
        0, 15, (rows, words // 10 + 1)
    )
    return [" ".join(vocabulary[row]) for row in drawn], gold


def hold_out(counts: TermCounts, gold: np.ndarray, rows: int) -> list[HeldOutRows]:
    train, other = np.arange(rows), np.arange(rows, len(gold))
    return [
        HeldOutRows(counts.select_rows(train), gold[train], counts.select_rows(other), gold[other])
    ]


def test_the_search_improves_on_its_first_settings_and_ends() -> None:
    texts, gold = make_texts(400, 10)
    counts = count_terms(texts)
    folds = hold_out(counts, gold, 300)
    evaluated = list(search_settings(folds, LABELS, counts.list_features()))
    assert len({one.settings for one in evaluated}) == len(evaluated) <= MAX_EVALUATIONS
    assert [one.settings.features for one in evaluated[:3]] == counts.list_features()
    best = min(evaluated, key=lambda one: one.loss)
    assert best.loss < min(one.loss for one in evaluated[:3])
    assert best == evaluate_settings(folds, LABELS, best.settings)


@pytest.mark.parametrize("several", [False, True])
def test_folds_keep_groups_together_and_do_not_depend_on_the_order_of_rows(several: bool) -> None:
    texts, gold = make_texts(60, 5)
    table = (gold[:, None] == np.arange(4)).astype(np.int64) if several else gold
    groups = [f"patient {row % 9}" if row < 40 else None for row in range(60)]
    folds = build_folds(texts, table, groups)
    assert sorted(np.concatenate([other for _, other in folds]).tolist()) == list(range(60))
    for train, other in folds:
        assert not {groups[row] for row in train} & {groups[row] for row in other} - {None}
    turned = build_folds(texts[::-1], table[::-1], groups[::-1])
    assert {frozenset(other.tolist()) for _, other in folds} == {
        frozenset((59 - other).tolist()) for _, other in turned
    }


def test_loss_and_accuracy_count_each_decision_of_several_labels() -> None:
    gold = np.array([[1, 0], [1, 1]])
    loss, right = compute_loss_and_accuracy(gold, np.array([[0.8, 0.4], [0.5, 0.1]]))
    assert right == 0.75
    assert loss == pytest.approx(-np.log([0.8, 0.6, 0.5, 0.1]).mean())
    loss, right = compute_loss_and_accuracy(np.array([1, 0]), np.array([[0.3, 0.7], [0.0, 1.0]]))
    assert right == 0.5
    assert loss == pytest.approx(-np.log([0.7, 1e-6]).mean())


@pytest.mark.scale
def test_a_thousand_rows_of_two_dozen_labels_take_seconds() -> None:
    texts, gold = make_texts(900, 30)
    labels = tuple(f"label {number}" for number in range(24))
    fine = gold * 6 + np.arange(900) % 6
    counts = count_terms(texts)
    folds = [
        HeldOutRows(counts.select_rows(a), fine[a], counts.select_rows(b), fine[b])
        for a, b in build_folds(texts, fine, [None] * 900)
    ]
    started = time.process_time()
    assert list(search_settings(folds, labels, counts.list_features()))
    assert time.process_time() - started < 40
