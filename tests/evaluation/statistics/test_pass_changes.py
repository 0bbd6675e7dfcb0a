"""What further passes changed, row by row."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from medtask.evaluation.statistics.pass_changes import PassAccumulator, PassSummary
from medtask.records import Answer, PassStep, Status, Value


def make_is_right(truth: str) -> object:
    return lambda status, value: value == truth


def summarise_passes(
    *rows: tuple[list[tuple[str, str | None]], str | None],
) -> tuple[PassSummary, ...]:
    """``rows``: the answer of each pass, in order, and gold."""
    gatherer = PassAccumulator()
    for result, gold in rows:
        *steps, (name, value) = result
        earlier = tuple(PassStep(step, Status.REVIEW, before, None) for step, before in steps)
        is_right = make_is_right(gold) if gold else None
        gatherer.add(Answer("id", Status.OK, value, pass_name=name, steps=earlier), is_right)  # type: ignore[arg-type]
    return gatherer.finish()


def test_rows_that_changed_gained_and_lost_are_distinguished() -> None:
    (refine,) = summarise_passes(
        ([("first", "other"), ("refine", "stone")], None),
        ([("first", "other"), ("refine", "other")], None),
        ([("first", None), ("refine", "stone")], None),
        ([("first", "other"), ("refine", None)], None),
        ([("first", None), ("refine", None)], None),
        ([("first", "stone")], None),
    )
    assert (refine.name, refine.asked, refine.changed, refine.gained, refine.lost) == (
        "refine",
        5,
        1,
        1,
        1,
    )
    assert refine.before_after is refine.p is None


def test_with_gold_rows_are_right_before_and_after() -> None:
    rows: list[tuple[list[tuple[str, str | None]], str | None]] = [
        ([("first", "other"), ("refine", "stone")], "stone")
    ] * 9
    rows += [([("first", "stone"), ("refine", "clot")], "stone")] * 2
    rows += [
        ([("first", "stone"), ("refine", "stone")], "stone"),
        ([("first", "other"), ("refine", None)], "stone"),
    ]
    (refine,) = summarise_passes(*rows)
    assert refine.before_after == ((1, 9), (2, 1))
    assert refine.graded == 13
    assert refine.p == pytest.approx(binomtest(2, 11).pvalue)


def test_groups_gain_or_lose_as_a_whole() -> None:
    """Of 200 rows that became right, all are of 4 patients: 2 of 16 exchanges are as large."""
    gatherer = PassAccumulator()
    steps = (PassStep("first", Status.REVIEW, "other", None),)
    for row in range(200):
        answer = Answer(f"{row}", Status.OK, "stone", pass_name="refine", steps=steps)
        gatherer.add(answer, make_is_right("stone"), f"patient {row % 4}")  # type: ignore[arg-type]
    (refine,) = gatherer.finish()
    assert refine.test == "randomisation of whole groups"
    assert refine.p == pytest.approx(2 / 16, abs=0.02)


def test_each_pass_is_compared_with_the_one_before_it() -> None:
    rows: list[tuple[list[tuple[str, str | None]], str | None]] = [
        ([("first", "other"), ("refine", "stone"), ("check", "clot")], "clot"),
        ([("first", "other"), ("check", "clot")], "clot"),
    ]
    found = summarise_passes(*rows)
    assert found == summarise_passes(*reversed(rows))
    assert [(one.name, one.asked, one.changed, one.before_after) for one in found] == [
        ("refine", 1, 1, ((1, 0), (0, 0))),
        ("check", 2, 2, ((0, 2), (0, 0))),
    ]


def test_a_kind_without_right_and_wrong_has_no_such_table() -> None:
    gatherer = PassAccumulator()

    def unknown(status: Status, value: Value | None) -> None:
        return None

    gatherer.add(
        Answer(
            "id",
            Status.OK,
            "text",
            pass_name="refine",
            steps=(PassStep("first", Status.OK, "words", None),),
        ),
        unknown,
    )
    (refine,) = gatherer.finish()
    assert (refine.changed, refine.before_after) == (1, None)
