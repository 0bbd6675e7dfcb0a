"""Figures as sums over rows are the figures that other libraries compute, and their differences
those of the paired bootstrap.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from sklearn.preprocessing import MultiLabelBinarizer

from medtask.evaluation.kinds.metrics import build_metric_sums
from medtask.evaluation.statistics.intervals import ResamplingUnits
from medtask.evaluation.statistics.metric_sums import (
    build_mean_sums,
    estimate_difference,
    estimate_metric,
    estimate_proportion_metric,
)
from medtask.evaluation.statistics.resampling import build_resampling_units

LABELS = ("a", "b", "c", "never")


def draw_labels(seed: int, rows: int = 80) -> tuple[list[str], list[str | None]]:
    chance = random.Random(seed)
    gold = [chance.choice("abc") for _ in range(rows)]
    return gold, [
        truth if chance.random() < 0.6 else chance.choice(["a", "b", "never", None])
        for truth in gold
    ]


def make_independent_units(rows: int) -> ResamplingUnits:
    return build_resampling_units((), rows)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_labels_are_those_of_sklearn(seed: int) -> None:
    gold, given = draw_labels(seed)
    found = {
        name: one.compute_value()
        for name, one in build_metric_sums("label", LABELS, gold, given).items()
    }
    output = [value or "none" for value in given]
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, output))
    assert found["macro_f1"] == pytest.approx(
        f1_score(gold, output, labels=sorted(set(gold)), average="macro", zero_division=0)
    )


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_sets_are_those_of_sklearn(seed: int) -> None:
    chance = random.Random(seed)
    gold = [tuple(name for name in LABELS[:3] if chance.random() < 0.4) for _ in range(60)]
    given = [
        None if chance.random() < 0.1 else tuple(name for name in LABELS if chance.random() < 0.3)
        for _ in gold
    ]
    found = {
        name: one.compute_value()
        for name, one in build_metric_sums("labels", LABELS, gold, given).items()
    }
    table = MultiLabelBinarizer(classes=LABELS)
    truth, result = table.fit_transform(gold), table.fit_transform([value or () for value in given])
    present = [index for index in range(len(LABELS)) if truth[:, index].any()]
    assert found["micro_f1"] == pytest.approx(
        f1_score(truth, result, average="micro", zero_division=0)
    )
    assert found["macro_f1"] == pytest.approx(
        f1_score(truth, result, labels=present, average="macro", zero_division=0)
    )
    answered = [index for index, value in enumerate(given) if value is not None]
    assert found["exact_match"] == pytest.approx(
        sum((truth[index] == result[index]).all() for index in answered) / len(gold)
    )
    alike = jaccard_score(
        truth[answered],
        result[answered],
        average=None if not answered else "samples",
        zero_division=1,
    ) * len(answered)
    assert found["jaccard"] == pytest.approx(alike / len(gold))


def test_texts_and_objects_are_weighed_by_how_much_agrees() -> None:
    texts = build_metric_sums("answer", (), ["red eye pain", "cough"], ["red eye", None])
    assert texts["token_f1"].compute_value() == pytest.approx((2 * 2 / 5) / 2)
    objects = build_metric_sums(
        "fields",
        (),
        [{"side": "left", "stage": "II"}, {"side": "right"}],
        [{"side": "left", "stage": "III"}, None],
    )
    assert objects["fields_right"].compute_value() == pytest.approx(1 / 3)
    assert objects["rows_right"].compute_value() == 0


def test_letters_are_weighed_as_one_or_as_sets() -> None:
    assert (
        build_metric_sums("choice", (), ["A", "B"], ["A", None])["accuracy"].compute_value() == 0.5
    )
    several = build_metric_sums("choice", (), [("A", "B"), ("C",)], [("A",), ("C",)])
    assert next(iter(several)) == "exact_match"
    assert several["exact_match"].compute_value() == 0.5
    assert several["micro_f1"].compute_value() == pytest.approx(4 / 5)


def test_a_difference_is_that_of_the_figures_and_its_interval_scipys() -> None:
    chance = np.random.default_rng(3)
    gold = ["a"] * 200
    one, other = (
        ["a" if right else "b" for right in chance.random(200) < share] for share in (0.8, 0.7)
    )
    first, second = (
        build_metric_sums("label", LABELS, gold, given)["accuracy"] for given in (one, other)
    )
    found = estimate_difference(first, second, make_independent_units(200))
    gaps = np.array([(x == "a") - float(y == "a") for x, y in zip(one, other, strict=True)])
    expected = scipy_bootstrap(
        (gaps,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    )
    assert found.value == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.015)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.015)


def test_rows_of_one_group_are_drawn_together() -> None:
    gold, given = ["a"] * 200, ["a" if index // 10 % 2 else "b" for index in range(200)]
    weighed = build_metric_sums("label", LABELS, gold, given)["accuracy"]
    alone = estimate_metric(weighed, make_independent_units(200))
    together = estimate_metric(
        weighed, build_resampling_units([f"patient {index // 10}" for index in range(200)], 200)
    )
    assert alone.value == together.value == 0.5
    assert None not in (alone.low, alone.high, together.low, together.high)
    # Twenty groups are as informative as twenty rows: the interval is wider by the root of ten.
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(
        10**0.5, rel=0.15
    )  # type: ignore[operator]


def test_two_systems_that_are_equal_have_no_interval_between_them() -> None:
    gold, given = draw_labels(5)
    weighed = build_metric_sums("label", LABELS, gold, given)
    for one in weighed.values():
        found = estimate_difference(one, one, make_independent_units(len(gold)))
        assert (found.value, found.low, found.high) == (0, None, None)


def test_a_share_of_independent_rows_has_wilsons_interval() -> None:
    weighed = build_metric_sums("label", LABELS, ["a"] * 10, ["a"] * 10)["accuracy"]
    found = estimate_proportion_metric(weighed, make_independent_units(10))
    assert found.value == 1
    assert found.low == pytest.approx(0.7224672, abs=1e-6)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_intervals_do_not_depend_on_the_order_of_rows(data: st.DataObject) -> None:
    row = st.tuples(st.integers(0, 3), st.sampled_from([None, None, "p1", "p2", "p3"]))
    rows = data.draw(st.lists(row, min_size=2, max_size=30))
    found = []
    for order in (rows, data.draw(st.permutations(rows))):
        values, groups = zip(*order, strict=True)
        units = build_resampling_units(groups, len(order))
        found.append(estimate_metric(build_mean_sums([value / 4 for value in values]), units))
    assert found[0] == found[1]
