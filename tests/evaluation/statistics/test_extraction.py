"""Objects against gold, field by field."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.statistics.extraction import (
    compare_objects,
    flatten,
    is_equal_value,
    unflatten,
)
from support.row_metrics import compute_extraction_metrics

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.dictionaries(
        st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (3, 3),
        (3, 3.0),
        (0.1 + 0.2, 0.3),
        ("12.5", 12.5),
        (True, True),
        ("true", True),
        (" Left  Breast", "left breast"),
        ("ﬁne", "fine"),
        (["a", "B"], ["b", "A", "a"]),
        ("a", ["a"]),
        ([{"x": 1}], [{"x": 1.0}]),
        ("2024-03-01", "2024-03-01"),
    ],
)
def test_equal_values(gold: object, answer: object) -> None:
    assert is_equal_value(gold, answer)
    assert is_equal_value(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (10**12, 10**12 + 1),  # whole numbers are exact
        (1.0, 1.0 + 1e-8),
        (True, 1),
        (False, "0"),
        ("2024-03-01", "2024-03-02"),
        ("1.0", "1"),  # codes: text stays text
        (["a"], ["a", "b"]),
        ([{"x": 1}], [{"x": 2}]),
        ("nan", "unknown"),
        (float("inf"), 1e308),
    ],
)
def test_values_that_do_not(gold: object, answer: object) -> None:
    assert not is_equal_value(gold, answer)
    assert not is_equal_value(answer, gold)


def test_each_field_is_right_wrong_missed_or_invented() -> None:
    gold = {"stage": "II", "size": {"value": 12, "unit": "mm"}, "nodes": None, "grade": 2}
    answer = {
        "stage": "ii",
        "size": {"value": 13, "unit": None},
        "nodes": True,
        "grade": 2,
        "side": "left",
    }
    found = {".".join(path): finding for path, finding, _, _ in compare_objects(gold, answer)}
    # gold has no side, so the side is not graded
    assert found == {
        "stage": "right",
        "size.value": "wrong",
        "size.unit": "missed",
        "nodes": "invented",
        "grade": "right",
    }


def test_an_object_that_is_null_represents_all_of_its_fields() -> None:
    full, null = {"size": {"value": 12, "unit": "mm"}}, {"size": None}
    assert {finding for _, finding, _, _ in compare_objects(full, null)} == {"missed"}
    assert {finding for _, finding, _, _ in compare_objects(null, full)} == {"invented"}
    quality = compute_extraction_metrics([full, null], [full, null])
    assert quality is not None
    assert [(one.field, one.rows, one.agreement.value) for one in quality.fields] == [
        ("size.unit", 2, 1.0),
        ("size.value", 2, 1.0),
    ]


def test_a_value_in_place_of_an_object_is_wrong() -> None:
    assert [
        finding for _, finding, _, _ in compare_objects({"size": 12}, {"size": {"value": 12}})
    ] == ["wrong"]


def test_the_figures_are_the_ones_by_hand() -> None:
    gold: list[dict[str, object]] = [{"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": 3, "b": None}]
    quality = compute_extraction_metrics(gold, [{"a": 1, "b": None}, {"a": 2, "b": ""}, None])
    assert quality is not None
    assert (quality.fields_right.value, quality.fields_right.n) == (pytest.approx(3 / 6), 3)
    assert (quality.rows_right.value, quality.rows_right.n) == (pytest.approx(1 / 3), 3)
    assert quality.rows_right_answered is not None
    assert quality.rows_right_answered.value == 0.5
    assert (quality.missed, quality.invented) == (2, 0)  # b of the second row, a of the third
    assert [(one.field, one.rows, one.gold, one.filled, one.missed) for one in quality.fields] == [
        ("a", 3, 3, 2, 1),
        ("b", 3, 1, 0, 1),
    ]


def test_groups_widen_the_intervals_of_fields_and_rows_where_their_rows_agree() -> None:
    chance = random.Random(0)
    gold: list[dict[str, object]] = []
    answers: list[dict[str, object] | None] = []
    for _ in range(40):
        stage, size = chance.random() < 0.7, chance.random() < 0.8
        gold += [{"stage": "II", "size": {"mm": 3}}] * 5 + [{"stage": "II", "size": None}]
        answers += [{"stage": "II" if stage else "I", "size": {"mm": 3 if size else 4}}] * 5 + [
            {"stage": "II" if stage else "I"}
        ]
    groups = [str(row // 6) for row in range(240)]
    alone = compute_extraction_metrics(gold, answers)
    full = compute_extraction_metrics(gold, answers, groups)
    assert alone is not None
    assert full is not None
    assert (alone.groups, full.groups) == (None, 40)
    pairs = [(alone.fields_right, full.fields_right), (alone.rows_right, full.rows_right)]
    pairs += [
        (one.agreement, other.agreement)
        for one, other in zip(alone.fields, full.fields, strict=True)
    ]
    for narrow, wide in pairs:
        assert (wide.value, wide.n) == (pytest.approx(narrow.value), narrow.n)
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)  # type: ignore[operator]
    stage = next(one for one in alone.fields if one.field == "stage")
    low, high = proportion_confint(round(stage.agreement.value * 240), 240, method="wilson")
    assert (stage.agreement.low, stage.agreement.high) == pytest.approx((low, high))


def test_without_an_answer_nothing_is_right_even_where_gold_has_nothing() -> None:
    quality = compute_extraction_metrics([{"b": None}], [None])
    assert quality is not None
    assert quality.fields_right.value == quality.rows_right.value == 0


def test_nothing_to_grade_is_no_quality() -> None:
    assert compute_extraction_metrics([], []) is None
    assert compute_extraction_metrics([{}], [{"a": 1}]) is None


@given(OBJECTS)
def test_an_object_agrees_with_itself(value: object) -> None:
    if isinstance(value, dict):
        assert {finding for _, finding, _, _ in compare_objects(value, value)} <= {"right"}
        assert flatten(unflatten(flatten(value))) == flatten(value)
