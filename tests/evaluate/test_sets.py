"""Sets of labels: by hand, and as scikit-learn counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from medtask.evaluate.sets import grade_sets

CLASSES = ("a", "b", "c")
SETS = st.sets(st.sampled_from(CLASSES)).map(lambda names: tuple(sorted(names)))


def test_the_figures_are_the_ones_by_hand() -> None:
    gold = [("a", "b"), ("a",), (), ("c",)]
    quality = grade_sets(CLASSES, gold, [("a",), ("a",), (), None])
    assert quality is not None
    assert (quality.exact_match.value, quality.exact_match.n) == (0.5, 4)
    assert quality.exact_answered is not None
    assert (quality.exact_answered.value, quality.exact_answered.n) == (pytest.approx(2 / 3), 3)
    assert quality.jaccard.value == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)
    assert quality.micro_f1.value == pytest.approx(2 * 2 / (4 + 2))
    assert quality.macro_f1.value == pytest.approx((1 + 0 + 0) / 3)
    assert (quality.gold_mean, quality.answered_mean) == (1.0, pytest.approx(2 / 3))
    assert [(one.label, one.gold, one.answered) for one in quality.labels] == [("a", 2, 2), ("b", 1, 0), ("c", 1, 0)]


def test_no_answer_is_not_the_empty_set() -> None:
    quality = grade_sets(CLASSES, [(), ()], [(), None])
    assert quality is not None
    assert quality.exact_match.value == quality.jaccard.value == 0.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=30))
def test_the_figures_equal_scikit_learns(rows: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    gold, answers = zip(*rows, strict=True)
    table = MultiLabelBinarizer(classes=CLASSES).fit([])
    truth, given_ = table.transform(gold), table.transform(answers)
    quality = grade_sets(CLASSES, gold, answers)
    assert quality is not None
    assert quality.exact_match.value == pytest.approx(accuracy_score(truth, given_))
    assert quality.micro_f1.value == pytest.approx(f1_score(truth, given_, average="micro", zero_division=0))
    assert quality.jaccard.value == pytest.approx(jaccard_score(truth, given_, average="samples", zero_division=1))
    in_gold = np.flatnonzero(truth.any(axis=0))
    if len(in_gold):
        assert quality.macro_f1.value == pytest.approx(f1_score(truth, given_, labels=in_gold, average="macro", zero_division=0))
    precision, recall, f1, _ = precision_recall_fscore_support(truth, given_, zero_division=0)
    for one in quality.labels:
        place = CLASSES.index(one.label)
        assert (one.precision, one.recall, one.f1) == pytest.approx((precision[place], recall[place], f1[place]))


def test_intervals_agree_with_a_bootstrap_over_rows() -> None:
    random = np.random.default_rng(3)
    truth = random.random((200, 3)) < (0.5, 0.3, 0.1)
    said = np.where(random.random((200, 3)) < 0.8, truth, random.random((200, 3)) < 0.5)
    gold, answers = ([tuple(np.array(CLASSES)[row]) for row in table] for table in (truth, said))
    quality = grade_sets(CLASSES, gold, answers)
    assert quality is not None
    draws = [random.integers(0, 200, 200) for _ in range(300)]
    for average, found in (("micro", quality.micro_f1), ("macro", quality.macro_f1)):
        plain = [f1_score(truth[drawn], said[drawn], average=average, zero_division=0) for drawn in draws]
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.02)


def test_no_rows_have_no_quality() -> None:
    assert grade_sets(CLASSES, [], []) is None


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(KeyError):
        grade_sets(CLASSES, [("z",)], [()])
