"""Metrics from a table of counts equal scikit-learn's from rows, and mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from medtask.evaluate.metrics import count_pairs, grade_counts

CLASSES = ("a", "b", "c", "d")
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES[:3]), st.sampled_from([*CLASSES, None])), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_accuracy_and_macro_f1_equal_those_from_rows(pairs: list[tuple[str, str | None]]) -> None:
    gold, answers = [truth for truth, _ in pairs], [given or "none" for _, given in pairs]
    quality = grade_counts(count_pairs(gold, [given for _, given in pairs], CLASSES), CLASSES)
    assert quality is not None
    assert quality.accuracy.value == pytest.approx(accuracy_score(gold, answers))
    expected = f1_score(gold, answers, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert quality.macro_f1.value == pytest.approx(expected)


def test_macro_f1_is_over_the_labels_that_occur_in_gold() -> None:
    quality = grade_counts(count_pairs(["a", "a", "b"], ["a", "d", "b"], CLASSES), CLASSES)
    assert quality is not None
    assert quality.macro_f1.value == pytest.approx((2 / 3 + 1) / 2)
    assert [(one.label, one.gold, one.answered) for one in quality.labels] == [("a", 2, 1), ("b", 1, 1), ("d", 0, 1)]


def test_precision_recall_and_f1_of_a_label_are_the_ones_by_hand() -> None:
    quality = grade_counts(count_pairs(["a", "a", "a", "b"], ["a", "a", "b", "a"], CLASSES), CLASSES)
    assert quality is not None
    first = quality.labels[0]
    assert (first.precision, first.recall, first.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_a_row_without_an_answer_is_wrong_but_not_among_the_answered() -> None:
    quality = grade_counts(count_pairs(["a", "a", "b", "b"], ["a", None, "b", None], CLASSES), CLASSES)
    assert quality is not None
    assert quality.accuracy_answered is not None
    assert (quality.accuracy.value, quality.accuracy.n) == (0.5, 4)
    assert (quality.accuracy_answered.value, quality.accuracy_answered.n) == (1.0, 2)


def test_abstaining_is_right_where_gold_abstains() -> None:
    quality = grade_counts(count_pairs(["a", "d", "b"], ["a", "d", "d"], CLASSES), CLASSES, abstain="d")
    assert quality is not None
    assert quality.accuracy_answered is not None
    assert quality.accuracy.value == pytest.approx(2 / 3)
    assert quality.accuracy_answered.n == 1


def test_nothing_but_missing_answers_leaves_no_accuracy_of_the_answered() -> None:
    quality = grade_counts(count_pairs(["a", "b"], [None, None], CLASSES), CLASSES)
    assert quality is not None
    assert quality.accuracy.value == 0
    assert quality.accuracy_answered is None


def test_an_empty_table_has_no_quality() -> None:
    assert grade_counts(count_pairs([], [], CLASSES), CLASSES) is None


def test_gold_that_is_no_class_is_refused() -> None:
    with pytest.raises(KeyError):
        count_pairs(["z"], ["a"], CLASSES)


def test_pairs_are_counted_by_gold_and_answer() -> None:
    counts = count_pairs(["a", "a", "b"], ["a", "nonsense", None], ("a", "b"))
    assert np.array_equal(counts, [[1, 0, 1], [0, 0, 1]])
