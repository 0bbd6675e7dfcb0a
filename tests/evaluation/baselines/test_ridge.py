"""Nested cross-validation: no row has a part in its own prediction."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from medtask.evaluation.baselines.ridge import (
    RidgeCrossValidation,
    assign_folds,
    compute_text_kernel,
)
from medtask.evaluation.baselines.tfidf import cross_validate_label_sets, cross_validate_labels

ORGANS = ("liver", "lung", "colon", "skin")
FINDINGS = ("cyst", "bleeding", "fracture")


def make_reports(count: int) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Texts, their organs, and their findings; a finding in ten is missing in gold."""
    rng = np.random.default_rng(11)
    texts, organs, findings = [], [], []
    for number in range(count):
        organ = ORGANS[rng.integers(4)]
        seen = [name for name in FINDINGS if rng.random() < 0.15]
        texts.append(f"{organ} number {number} shows {' and '.join(seen) or 'nothing'} today")
        organs.append(organ)
        findings.append(tuple(name for name in seen if rng.random() < 0.9))
    return texts, organs, findings


def test_scores_equal_those_of_scikit_learns_ridge_regression() -> None:
    rng = np.random.default_rng(11)
    features = rng.normal(size=(40, 7))
    targets = (rng.random((40, 2)) < 0.4).astype(float)
    rows = RidgeCrossValidation(features @ features.T, np.arange(40) % 5)
    train, held_out = np.arange(10, 40), np.arange(10)
    mean = targets[train].mean(axis=0)
    reference = Ridge(alpha=3.0, fit_intercept=False).fit(features[train], targets[train] - mean)
    np.testing.assert_allclose(
        rows._fit_and_score(targets, train, held_out, 3.0),
        reference.predict(features[held_out]) + mean,
        atol=1e-9,
    )


def test_the_kernel_is_that_of_scikit_learns_features() -> None:
    texts = ["Liver cyst", "lung cyst seen", "liver and lung"]
    expected = sum(
        (table @ table.T).toarray()
        for table in (
            TfidfVectorizer(sublinear_tf=True, min_df=2, **settings).fit_transform(texts)
            for settings in ({}, {"analyzer": "char_wb", "ngram_range": (2, 5)})
        )
    )
    np.testing.assert_allclose(compute_text_kernel(texts), expected, atol=1e-12)


def test_the_gold_of_a_row_has_no_part_in_its_prediction() -> None:
    texts, organs, findings = make_reports(60)
    kernel = compute_text_kernel(texts)
    folds = np.arange(60) % 5
    rows = RidgeCrossValidation(kernel, folds)
    gold = np.array([ORGANS.index(organ) for organ in organs])
    sets = np.array([[name in found for name in FINDINGS] for found in findings])
    labels, label_sets = rows.predict_labels(gold, 4), rows.predict_label_sets(sets)
    for fold in range(5):
        mine = folds == fold
        changed, changed_sets = gold.copy(), sets.copy()
        changed[mine], changed_sets[mine] = (gold[mine] + 1) % 4, ~sets[mine]
        assert (rows.predict_labels(changed, 4)[mine] == labels[mine]).all()
        assert (rows.predict_label_sets(changed_sets)[mine] == label_sets[mine]).all()


def test_groups_are_in_one_fold_in_any_order_of_rows() -> None:
    texts, organs, _ = make_reports(80)
    groups = [f"p{number // 4}" if number % 3 else None for number in range(80)]
    folds = assign_folds(texts, organs, groups, 0)
    assert folds is not None
    assert set(folds.tolist()) == set(range(5))
    for name in set(groups) - {None}:
        assert len({folds[row] for row, group in enumerate(groups) if group == name}) == 1
    order = np.random.default_rng(11).permutation(80)
    shuffled = [[column[row] for row in order] for column in (texts, organs, groups)]
    again = assign_folds(*shuffled, 0)
    assert again is not None
    assert (again == folds[order]).all()
    assert assign_folds(texts, organs, ["one"] * 40 + ["two"] * 40, 0) is None
    assert assign_folds(texts, organs, ["one"] * 76 + ["a", "b", "c", "d"], 0) is not None


def test_a_group_with_words_of_its_own_teaches_nothing_about_itself() -> None:
    texts = [f"patient {chr(0x4E00 + row // 2)}" for row in range(80)]
    gold = [str(one) for one in np.random.default_rng(2).integers(2, size=40).repeat(2)]
    groups = [f"patient{row // 2}" for row in range(80)]

    def measure(groups: list[str]) -> float:
        found = cross_validate_labels(texts, gold, groups, 0)
        return float(np.mean([one == other for one, other in zip(found, gold, strict=True)]))

    assert measure([str(row) for row in range(80)]) > 0.9  # the other row of the patient is known
    assert measure(groups) < 0.75


def test_thresholds_find_labels_that_are_rare() -> None:
    texts, _, findings = make_reports(200)
    found = cross_validate_label_sets(texts, findings, FINDINGS, (), 0)
    for name in FINDINGS:
        shown = [name in text for text in texts]
        assert (
            np.mean([(name in row) == seen for row, seen in zip(found, shown, strict=True)]) > 0.97
        )


def test_labels_are_learned_if_each_set_of_them_is_rare() -> None:
    names = [f"finding{number}" for number in range(8)]
    pairs = [pair for pair in combinations(names, 2) for _ in range(4)]
    texts = [f"row {row} shows {' and '.join(pair)} today" for row, pair in enumerate(pairs)]
    groups = [f"p{row // 2}" for row in range(len(pairs))]
    for given in ((), groups):
        found = cross_validate_label_sets(texts, pairs, names, given, 0)
        assert np.mean([one == other for one, other in zip(found, pairs, strict=True)]) > 0.9


@pytest.mark.parametrize("blanks", ["", " "])
def test_chinese_texts_without_blanks_are_learned(blanks: str) -> None:
    rng = np.random.default_rng(11)
    signs = {"心": ("胸痛心悸", "心律不齐"), "肺": ("咳嗽咳痰", "呼吸困难")}
    gold = [rng.choice(list(signs)) for _ in range(60)]
    texts = [
        blanks.join(f"患者{rng.integers(2, 9)}天前因{rng.choice(signs[organ])}来诊")
        for organ in gold
    ]
    found = cross_validate_labels(texts, gold, (), 0)
    assert list(found) == gold
