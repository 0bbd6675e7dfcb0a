"""Metrics of sets of labels, compared with expected values and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    hamming_loss,
    jaccard_score,
    precision_recall_fscore_support,
)
from sklearn.preprocessing import MultiLabelBinarizer
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.multilabel import (
    MultiLabelMetrics,
    MultiLabelMetricsAccumulator,
)
from support.row_metrics import compute_multilabel_metrics

CLASSES = ("a", "b", "c")
SETS = st.sets(st.sampled_from(CLASSES)).map(lambda names: tuple(sorted(names)))


def get_value(figure: Metric | None) -> float:
    assert figure is not None
    return figure.value


def test_the_figures_are_the_ones_by_hand() -> None:
    gold = [("a", "b"), ("a",), (), ("c",)]
    quality = compute_multilabel_metrics(CLASSES, gold, [("a",), ("a",), (), None])
    assert quality is not None
    assert (quality.exact_match.value, quality.exact_match.n) == (0.5, 4)
    assert quality.exact_answered is not None
    assert (quality.exact_answered.value, quality.exact_answered.n) == (pytest.approx(2 / 3), 3)
    assert quality.jaccard.value == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)
    assert get_value(quality.micro_f1) == pytest.approx(2 * 2 / (4 + 2))
    assert get_value(quality.macro_f1) == pytest.approx((1 + 0 + 0) / 3)
    assert quality.sample_f1.value == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    # Without an answer every label is wrong.
    assert get_value(quality.hamming_loss) == pytest.approx((1 / 3 + 0 + 0 + 1) / 4)
    assert (quality.gold_mean, quality.answered_mean) == (1.0, pytest.approx(2 / 3))
    assert [(one.label, one.gold, one.answered) for one in quality.labels] == [
        ("a", 2, 2),
        ("b", 1, 0),
        ("c", 1, 0),
    ]


def test_no_answer_is_not_the_empty_set() -> None:
    quality = compute_multilabel_metrics(CLASSES, [(), ()], [(), None])
    assert quality is not None
    assert quality.exact_match.value == quality.jaccard.value == 0.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=30))
def test_the_figures_equal_scikit_learns(
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]],
) -> None:
    gold, answers = zip(*rows, strict=True)
    table = MultiLabelBinarizer(classes=CLASSES).fit([])
    truth, given_ = table.transform(gold), table.transform(answers)
    quality = compute_multilabel_metrics(CLASSES, gold, answers)
    assert quality is not None
    assert quality.exact_match.value == pytest.approx(accuracy_score(truth, given_))
    if truth.any() or given_.any():
        assert get_value(quality.micro_f1) == pytest.approx(
            f1_score(truth, given_, average="micro", zero_division=0)
        )
    else:
        assert quality.micro_f1 is None
    assert quality.sample_f1.value == pytest.approx(
        f1_score(truth, given_, average="samples", zero_division=1)
    )
    assert get_value(quality.hamming_loss) == pytest.approx(hamming_loss(truth, given_))
    assert quality.jaccard.value == pytest.approx(
        jaccard_score(truth, given_, average="samples", zero_division=1)
    )
    in_gold = np.flatnonzero(truth.any(axis=0))
    assert (quality.macro_f1 is not None) == bool(len(in_gold))
    if len(in_gold):
        assert get_value(quality.macro_f1) == pytest.approx(
            f1_score(truth, given_, labels=in_gold, average="macro", zero_division=0)
        )
    precision, recall, f1, _ = precision_recall_fscore_support(truth, given_, zero_division=np.nan)
    for one in quality.labels:
        index = CLASSES.index(one.label)
        for figure, expected in (
            (one.precision, precision[index]),
            (one.recall, recall[index]),
            (one.f1, f1[index]),
        ):
            assert (figure.value if figure else np.nan) == pytest.approx(expected, nan_ok=True)


def test_intervals_agree_with_a_bootstrap_over_rows() -> None:
    random = np.random.default_rng(3)
    truth = random.random((200, 3)) < (0.5, 0.3, 0.1)
    result = np.where(random.random((200, 3)) < 0.8, truth, random.random((200, 3)) < 0.5)
    gold, answers = ([tuple(np.array(CLASSES)[row]) for row in table] for table in (truth, result))
    quality = compute_multilabel_metrics(CLASSES, gold, answers)
    assert quality is not None
    draws = [random.integers(0, 200, 200) for _ in range(200)]
    for average, found in (
        ("micro", quality.micro_f1),
        ("macro", quality.macro_f1),
        (None, quality.labels[1].f1),
    ):
        plain = [
            f1_score(truth[drawn], result[drawn], average=average, zero_division=0)
            for drawn in draws
        ]
        low, high = np.percentile(plain, [2.5, 97.5], axis=0)
        assert found is not None
        assert (found.low, found.high) == pytest.approx(
            (low, high) if average else (low[1], high[1]), abs=0.025
        )
    exact = (truth == result).all(axis=1).sum()
    assert (quality.exact_match.low, quality.exact_match.high) == pytest.approx(
        proportion_confint(exact, 200, method="wilson")
    )


def test_no_rows_have_no_quality() -> None:
    assert compute_multilabel_metrics(CLASSES, [], []) is None


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(KeyError):
        compute_multilabel_metrics(CLASSES, [("z",)], [()])


def get_width(figure: Metric | None) -> float:
    assert figure is not None
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


def make_grouped_rows(
    patients: int, size: int
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...] | None], list[str | None]]:
    """Rows of a patient are all alike; one in ten rows has no patient."""
    random = np.random.default_rng(5)
    truth = np.repeat(random.random((patients, 3)) < (0.5, 0.3, 0.2), size, axis=0)
    flip = np.repeat(random.random((patients, 3)) < 0.2, size, axis=0)
    gold, answers = (
        [tuple(np.array(CLASSES)[row]) for row in table] for table in (truth, truth ^ flip)
    )
    groups = [None if row % 10 == 0 else str(row // size) for row in range(patients * size)]
    return gold, [None if row % 50 == 0 else names for row, names in enumerate(answers)], groups


def test_groups_widen_every_interval_where_their_rows_agree() -> None:
    gold, answers, groups = make_grouped_rows(60, 6)
    alone = compute_multilabel_metrics(CLASSES, gold, answers)
    full = compute_multilabel_metrics(CLASSES, gold, answers, groups)
    assert alone is not None
    assert full is not None
    assert (alone.groups, full.groups) == (None, 60 + 36)
    for measure in (
        "exact_match",
        "exact_answered",
        "jaccard",
        "hamming_loss",
        "sample_f1",
        "micro_f1",
        "macro_f1",
    ):
        assert get_value(getattr(full, measure)) == pytest.approx(
            get_value(getattr(alone, measure))
        )
        assert get_width(getattr(full, measure)) > 1.5 * get_width(getattr(alone, measure))
    for one, other in zip(alone.labels, full.labels, strict=True):
        for figure in ("precision", "recall", "f1"):
            assert get_width(getattr(other, figure)) > 1.4 * get_width(getattr(one, figure))


def test_a_sample_of_the_rows_gives_nearly_the_intervals_of_all() -> None:
    gold, answers, groups = make_grouped_rows(500, 6)
    counts, by_group = MultiLabelMetricsAccumulator(CLASSES), MultiLabelMetricsAccumulator(CLASSES)
    for truth, given_, group in zip(gold, answers, groups, strict=True):
        counts.add(truth, given_)
        by_group.add(truth, given_, group)
    some = np.random.default_rng(0).permutation(3000)[:400].tolist()
    columns = (
        [gold[row] for row in some],
        [answers[row] for row in some],
        [groups[row] for row in some],
    )
    found: list[tuple[MultiLabelMetrics | None, MultiLabelMetrics | None]] = [
        (counts.compute_metrics(*columns[:2]), compute_multilabel_metrics(CLASSES, gold, answers)),
        (
            by_group.compute_metrics(*columns),
            compute_multilabel_metrics(CLASSES, gold, answers, groups),
        ),
    ]
    for part, full in found:
        assert part is not None
        assert full is not None
        assert part.macro_f1 is not None
        assert get_value(part.macro_f1) == get_value(full.macro_f1)
        assert get_width(part.macro_f1) == pytest.approx(get_width(full.macro_f1), rel=0.25)
        assert part.jaccard == full.jaccard


def test_nobody_answered() -> None:
    quality = compute_multilabel_metrics(CLASSES, [("a",), ()], [None, None])
    assert quality is not None
    assert quality.exact_answered is quality.answered_mean is None
    assert (
        quality.exact_match.value
        == quality.jaccard.value
        == quality.sample_f1.value
        == get_value(quality.micro_f1)
        == 0
    )
    assert get_value(quality.hamming_loss) == 1


def test_without_any_label_there_is_no_f1() -> None:
    quality = compute_multilabel_metrics(CLASSES, [(), ()], [(), ()])
    assert quality is not None
    assert quality.micro_f1 is quality.macro_f1 is None
    assert quality.labels == ()
    assert quality.exact_match.value == quality.sample_f1.value == 1
    assert get_value(quality.hamming_loss) == 0


def test_hamming_loss_is_of_the_names_that_a_row_had_to_choose_from() -> None:
    rows = [("a",), ("a",)], [("b",), ("a", "b")]
    known = compute_multilabel_metrics(CLASSES, *rows, n_options=[2, 4])
    unknown = compute_multilabel_metrics(CLASSES, *rows, n_options=[2, 0])
    assert known is not None
    assert unknown is not None
    assert get_value(known.hamming_loss) == pytest.approx((2 / 2 + 1 / 4) / 2)
    assert unknown.hamming_loss is None


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_intervals_do_not_depend_on_the_order_of_rows(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from("abcd"), unique=True).map(tuple)
    row = st.tuples(names, st.none() | names, st.sampled_from([None, None, "p1", "p2"]))
    rows = data.draw(st.lists(row, min_size=2, max_size=30))
    orders = [rows, data.draw(st.permutations(rows))]
    found = [compute_multilabel_metrics("abcd", *zip(*order, strict=True)) for order in orders]
    assert repr(found[0]) == repr(found[1])
