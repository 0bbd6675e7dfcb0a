"""Metrics from a table of counts equal scikit-learn's from rows, and mean what they say."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.statistics.classification import (
    ClassificationMetrics,
    _ClassificationSums,
    compute_metrics_from_cells,
)
from medtask.evaluation.statistics.intervals import Metric, estimate_proportion
from medtask.evaluation.statistics.resampling import CellCounter
from support.row_metrics import compute_classification_metrics

CLASSES = ("a", "b", "c", "d")
PAIRS = st.lists(
    st.tuples(st.sampled_from(CLASSES[:3]), st.sampled_from([*CLASSES, None])),
    min_size=1,
    max_size=40,
)


def grade_answers(
    gold: list[str], answers: list[str | None], **more: object
) -> ClassificationMetrics:
    quality = compute_classification_metrics(gold, answers, CLASSES, **more)  # type: ignore[arg-type]
    assert quality is not None
    return quality


@settings(deadline=None, max_examples=25)
@given(PAIRS)
def test_every_figure_equals_scikit_learns_from_rows(pairs: list[tuple[str, str | None]]) -> None:
    gold, given_ = [truth for truth, _ in pairs], [answer for _, answer in pairs]
    answers, in_gold = [answer or "none" for answer in given_], sorted(set(gold))
    quality = grade_answers(gold, given_)
    assert quality.accuracy.value == pytest.approx(accuracy_score(gold, answers))
    output = {"labels": in_gold, "zero_division": 0}
    assert quality.macro_f1.value == pytest.approx(
        f1_score(gold, answers, average="macro", **output)
    )
    assert quality.weighted_f1.value == pytest.approx(
        f1_score(gold, answers, average="weighted", **output)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers that are never in gold
        assert quality.balanced_accuracy.value == pytest.approx(
            balanced_accuracy_score(gold, answers)
        )
    several = len(in_gold) > 1
    assert (quality.kappa is not None) == several
    assert (quality.mcc is not None) == (several and len(set(answers)) > 1)
    if quality.kappa:
        assert quality.kappa.value == pytest.approx(cohen_kappa_score(gold, answers))
    if quality.mcc:
        assert quality.mcc.value == pytest.approx(matthews_corrcoef(gold, answers))
    precision, recall, f1, _ = precision_recall_fscore_support(
        gold, answers, labels=CLASSES, zero_division=np.nan
    )
    for one in quality.labels:
        index = CLASSES.index(one.label)
        for figure, expected in (
            (one.precision, precision[index]),
            (one.recall, recall[index]),
            (one.f1, f1[index]),
        ):
            assert (figure.value if figure else np.nan) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(PAIRS)
def test_what_the_bootstrap_measures_on_a_draw_is_what_scikit_learn_measures(
    pairs: list[tuple[str, str | None]],
) -> None:
    counter = CellCounter()
    for truth, answer in pairs:
        counter.add((CLASSES.index(truth), CLASSES.index(answer) if answer else 4))
    cells, units = counter.finish()
    measured = _ClassificationSums(*cells.T, units, 4).compute_metrics(units.counts[None])[0]
    quality = grade_answers([truth for truth, _ in pairs], [answer for _, answer in pairs])
    output = [
        quality.macro_f1,
        quality.balanced_accuracy,
        quality.weighted_f1,
        quality.kappa,
        quality.mcc,
    ]
    for kind in ("precision", "recall", "f1"):
        output += [getattr(one, kind) for one in quality.labels]
    assert measured.tolist() == pytest.approx(
        [figure.value if figure else np.nan for figure in output], nan_ok=True
    )


def test_intervals_agree_with_a_plain_bootstrap_over_rows() -> None:
    random = np.random.default_rng(1)
    gold = random.choice(4, size=200, p=[0.5, 0.3, 0.15, 0.05])
    answers = np.where(random.random(200) < 0.7, gold, random.integers(0, 5, 200))
    plain = []
    for _ in range(150):
        drawn = random.integers(0, 200, 200)
        truth, given_ = gold[drawn], answers[drawn]
        output = {"labels": np.unique(truth), "average": "macro", "zero_division": 0.0}
        one = f1_score(truth, given_, labels=[2], average="macro", zero_division=0.0)
        plain.append(
            (
                f1_score(truth, given_, **output),
                cohen_kappa_score(truth, given_),
                matthews_corrcoef(truth, given_),
                one,
            )
        )
    quality = grade_answers(
        [CLASSES[index] for index in gold], [[*CLASSES, None][index] for index in answers]
    )
    found = [quality.macro_f1, quality.kappa, quality.mcc, quality.labels[2].f1]
    expected = np.percentile(plain, [2.5, 97.5], axis=0).T
    for figure, (low, high) in zip(found, expected, strict=True):
        assert figure is not None
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=0.035)


def test_precision_and_recall_have_wilsons_intervals() -> None:
    quality = grade_answers(["a"] * 30 + ["b"] * 20, ["a"] * 25 + ["b"] * 20 + ["a"] * 5)
    first = quality.labels[0]
    assert first.precision is not None
    assert first.recall is not None
    assert (first.precision.low, first.precision.high) == pytest.approx(
        proportion_confint(25, 30, method="wilson")
    )
    assert (first.recall.n, first.precision.n) == (30, 30)


def test_groups_widen_every_interval_where_their_rows_agree() -> None:
    random = np.random.default_rng(2)
    gold = np.repeat(random.integers(0, 3, 40), 8)
    answers = np.where(
        np.repeat(random.random(40) < 0.6, 8), gold, np.repeat(random.integers(0, 4, 40), 8)
    )
    names: tuple[list[str], list[str | None]] = (
        [CLASSES[index] for index in gold],
        [CLASSES[index] for index in answers],
    )
    groups = [str(row // 8) for row in range(320)]
    alone, full = grade_answers(*names), grade_answers(*names, groups=groups)
    assert (alone.groups, full.groups) == (None, 40)
    for kind in (
        "accuracy",
        "accuracy_answered",
        "macro_f1",
        "balanced_accuracy",
        "weighted_f1",
        "kappa",
        "mcc",
    ):
        narrow, wide = getattr(alone, kind), getattr(full, kind)
        assert (wide.value, wide.n) == (pytest.approx(narrow.value), narrow.n)
        assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)
    for one, other in zip(alone.labels[:3], full.labels[:3], strict=True):
        for kind in ("precision", "recall", "f1"):
            narrow, wide = getattr(one, kind), getattr(other, kind)
            assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_groups_that_are_all_alike_count_as_one_row_each() -> None:
    quality = grade_answers(["a", "a", "b", "b"], ["a", "a", "b", "b"], groups=["x", "x", "y", "y"])
    two = estimate_proportion(2, 2)
    one = estimate_proportion(1, 1)
    assert two is not None
    assert one is not None
    assert quality.accuracy == Metric(1.0, 4, two.low, two.high)
    assert quality.labels[0].recall == Metric(1.0, 2, one.low, one.high)


def test_macro_f1_is_over_the_labels_that_occur_in_gold() -> None:
    quality = grade_answers(["a", "a", "b"], ["a", "d", "b"])
    assert quality.macro_f1.value == pytest.approx((2 / 3 + 1) / 2)
    assert [(one.label, one.gold, one.answered) for one in quality.labels] == [
        ("a", 2, 1),
        ("b", 1, 1),
        ("d", 0, 1),
    ]


def test_of_a_label_that_is_never_answered_or_never_gold_nothing_is_made_up() -> None:
    quality = grade_answers(["a", "b"], ["a", "d"])
    never_answered, never_gold = quality.labels[1:]
    assert never_answered.precision is None
    assert never_answered.recall is not None
    assert never_answered.recall.value == 0
    assert never_gold.recall is None
    assert never_gold.f1 is not None
    assert never_gold.f1.value == 0


def test_a_row_without_an_answer_is_wrong_but_not_among_the_answered() -> None:
    quality = grade_answers(["a", "a", "b", "b"], ["a", None, "b", None])
    assert quality.accuracy_answered is not None
    assert (quality.accuracy.value, quality.accuracy.n) == (0.5, 4)
    assert (quality.accuracy_answered.value, quality.accuracy_answered.n) == (1.0, 2)


def test_abstaining_is_right_where_gold_abstains() -> None:
    quality = grade_answers(["a", "d", "b"], ["a", "d", "d"], abstain="d")
    assert quality.accuracy_answered is not None
    assert quality.accuracy.value == pytest.approx(2 / 3)
    assert quality.accuracy_answered.n == 1


def test_nothing_but_missing_answers_leaves_no_accuracy_of_the_answered() -> None:
    quality = grade_answers(["a", "b"], [None, None])
    assert quality.accuracy.value == quality.balanced_accuracy.value == 0
    assert quality.accuracy_answered is quality.mcc is None


@pytest.mark.parametrize("answers", [["a"], ["b"], [None]])
@pytest.mark.parametrize("n", [1, 5])
def test_of_one_class_nothing_can_be_distinguished_from_chance(
    answers: list[str | None], n: int
) -> None:
    quality = grade_answers(["a"] * n, answers * n)
    assert quality.kappa is quality.mcc is None
    right = float(answers == ["a"])
    assert (
        quality.accuracy.value == quality.macro_f1.value == quality.balanced_accuracy.value == right
    )
    assert quality.macro_f1 == Metric(right, n)


def test_no_rows_have_no_quality() -> None:
    assert compute_classification_metrics([], [], CLASSES) is None


def test_gold_that_is_no_class_is_refused() -> None:
    with pytest.raises(KeyError):
        compute_classification_metrics(["z"], ["a"], CLASSES)


def test_an_answer_that_is_no_class_counts_as_none() -> None:
    assert grade_answers(["a", "a", "b"], ["a", "nonsense", None]) == grade_answers(
        ["a", "a", "b"], ["a", None, None]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "size"), [(2000, 1), (10, 5)])
def test_a_hundred_thousand_rows_take_seconds(labels: int, size: int) -> None:
    random = np.random.default_rng(0)
    gold = random.integers(0, labels, 100_000)
    answers = np.where(random.random(100_000) < 0.6, gold, random.integers(0, labels, 100_000))
    counter = CellCounter()
    for row, pair in enumerate(zip(gold.tolist(), answers.tolist(), strict=True)):
        counter.add(pair, str(row // size) if size > 1 else None)
    names = [str(label) for label in range(labels)]
    start = time.perf_counter()
    quality = compute_metrics_from_cells(*counter.finish(), names)
    assert quality is not None
    assert quality.groups == (None if size == 1 else 20_000)
    assert time.perf_counter() - start < 30  # some 3 s on two idle cores
