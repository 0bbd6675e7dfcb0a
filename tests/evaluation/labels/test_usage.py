"""Labels that nobody uses, that are used too often, and signs that one is missing."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from medtask.evaluation.labels.pair_counts import GoldAnswerCounts, build_pair_cells
from medtask.evaluation.labels.usage import (
    OffSetCounts,
    bound_unseen_share,
    find_missing_label,
    find_usage_problems,
)
from support.label_pairs import count_label_pairs


@pytest.mark.parametrize("n", [1, 5, 100, 40_000])
def test_the_bound_of_what_was_not_seen_is_clopper_and_pearsons(n: int) -> None:
    assert bound_unseen_share(n) == pytest.approx(1 - 0.05 ** (1 / n))
    assert bound_unseen_share(n) <= 3 / n


def test_nothing_seen_bounds_nothing() -> None:
    assert bound_unseen_share(0) == 1.0


def test_a_label_that_is_never_answered_and_is_in_gold_is_worst() -> None:
    counted = count_label_pairs(
        ["a", "b", "c", "d"], [("a", "a")] * 6 + [("b", "a")] * 3 + [("c", "a")]
    )
    found = find_usage_problems(counted, build_pair_cells(counted))
    never, rest, not_in_gold = [
        finding for finding in found if finding.topic != "answered_too_often"
    ]
    assert (never.weight, never.labels, never.figures["in_gold"]) == (
        "act",
        ("b", "c"),
        {"b": 3, "c": 1},
    )
    assert (rest.weight, rest.labels) == ("note", ("d",))
    assert (not_in_gold.topic, not_in_gold.labels) == ("never_in_gold", ("d",))
    assert not_in_gold.seen.endswith("of all rows, with 95 % confidence)")


def test_without_gold_a_label_that_is_never_answered_is_worth_a_look() -> None:
    counted = count_label_pairs(["a", "b"], [(None, "a")] * 5)
    (found,) = find_usage_problems(counted, build_pair_cells(counted))
    assert (found.weight, found.labels, found.figures["answers"]) == ("look", ("b",), 5)


def test_the_abstention_is_no_label_that_must_be_used() -> None:
    counted = count_label_pairs(["a", "unknown"], [("a", "a")] * 9, abstain="unknown")
    assert find_usage_problems(counted, build_pair_cells(counted)) == []


def test_without_answers_there_is_nothing_to_find() -> None:
    counted = count_label_pairs(["a", "b"], [])
    assert find_usage_problems(counted, build_pair_cells(counted)) == []


def test_a_label_that_is_answered_to_everything_is_reported_with_mcnemars_test() -> None:
    counted = count_label_pairs(
        ["a", "b", "c"], [("a", "a")] * 4 + [("b", "a")] * 20 + [("c", "c")] * 9 + [("a", "b")] * 1
    )
    (found,) = [
        finding
        for finding in find_usage_problems(counted, build_pair_cells(counted))
        if finding.topic == "answered_too_often"
    ]
    assert found.labels == ("a",)
    assert (found.figures["given"], found.figures["in_gold"]) == (24, 5)
    assert found.figures["p_adjusted"] == pytest.approx(
        3 * binomtest(20, 21, alternative="greater").pvalue
    )


def test_chance_alone_makes_no_label_answered_too_often() -> None:
    counted = count_label_pairs(["a", "b"], [("a", "a")] * 20 + [("b", "a")] * 3)
    assert not [
        finding
        for finding in find_usage_problems(counted, build_pair_cells(counted))
        if finding.topic == "answered_too_often"
    ]


@pytest.mark.parametrize(
    ("names", "abstain", "exclusive", "found"),
    [
        (["a", "b"], None, True, 1),
        (["a", "b"], "unknown", True, 0),
        (["a", "Other"], None, True, 0),
        (["a", "OTHER_HISTORY"], None, True, 1),
        (["a", "b"], None, False, 0),
    ],
)
def test_a_set_with_no_way_out_is_noted(
    names: list[str], abstain: str | None, exclusive: bool, found: int
) -> None:
    assert len(find_missing_label(names, abstain, exclusive)) == found


def test_signs_of_a_missing_label_come_with_their_intervals() -> None:
    counted = GoldAnswerCounts(("a", "b"))
    for row in range(10):
        counted.add(("a",), ("z",) if row == 0 else ("a",), 0.3 if row < 6 else 0.9)
    (found,) = find_missing_label(["a", "b"], None, True, counted, OffSetCounts(10, 5, 0.9, 0.6))
    assert found.weight == "act"  # gold says so
    assert found.figures["strange_gold"] == 1
    exact = binomtest(5, 10).proportion_ci(method="wilson")
    assert found.figures["off_set"]["low"] == pytest.approx(exact.low)
    assert found.figures["unsure"]["value"] == pytest.approx(0.6)
    assert "5 of 10 rows (50.0 %" in found.seen


def test_sure_answers_inside_the_set_are_no_sign() -> None:
    counted = GoldAnswerCounts(("a", "b"), "unknown")
    for _ in range(10):
        counted.add(("a",), ("a",), 0.95)
    assert (
        find_missing_label(["a", "b"], "unknown", True, counted, OffSetCounts(10, 1, 0.9, 0.1))
        == []
    )


def test_no_rows_are_no_sign() -> None:
    assert (
        find_missing_label(
            ["a", "b"], "unknown", True, GoldAnswerCounts(("a", "b")), OffSetCounts(0, 0, 0.9, 0.0)
        )
        == []
    )
