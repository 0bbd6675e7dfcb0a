from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from medtask.errors import UsageError
from medtask.evaluation.calibration.acceptance import (
    START_GROWTH,
    Acceptance,
    GoldConfidences,
    compute_min_rows,
    find_acceptance,
)
from medtask.evaluation.calibration.review_order import rank_for_review
from medtask.evaluation.presentation.blocks import ReportTable
from medtask.evaluation.report.calibration_report import build_result_blocks, describe_result
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import sample_one_per_group

RANDOM = np.random.default_rng(20261120)


def run_acceptance(
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    max_error: float = 0.05,
    level: float = 0.95,
    seed: int = 0,
    **columns: object,
) -> Acceptance | Refusal:
    gold = GoldConfidences(confidence, right, **columns)  # type: ignore[arg-type]
    return find_acceptance(gold, max_error=max_error, level=level, seed=seed)


def find_accepted(confidence: np.ndarray, right: np.ndarray, **more: object) -> Acceptance:
    found = run_acceptance(confidence, right, **more)  # type: ignore[arg-type]
    assert isinstance(found, Acceptance), found
    return found


def find_refusal(confidence: np.ndarray, right: np.ndarray, **more: object) -> Refusal:
    found = run_acceptance(confidence, right, **more)  # type: ignore[arg-type]
    assert isinstance(found, Refusal), found
    return found


def draw_answers(n: int, a: float = 6.0, b: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    confidence = RANDOM.beta(a, b, n)
    return confidence, RANDOM.random(n) < confidence


@pytest.mark.parametrize(
    ("max_error", "risk", "rows"),
    [(0.05, 0.05, 59), (0.01, 0.05, 299), (0.1, 0.1, 22), (0.5, 0.5, 1)],
)
def test_the_fewest_rows_by_the_binomial_tail(max_error: float, risk: float, rows: int) -> None:
    assert compute_min_rows(max_error, risk) == rows
    assert binom.cdf(0, rows, max_error) <= risk + 1e-12
    assert rows == 1 or binom.cdf(0, rows - 1, max_error) > risk


def test_59_right_answers_are_just_enough() -> None:
    sure = np.linspace(0.5, 0.99, 59)
    found = find_accepted(sure, np.ones(59, dtype=bool))
    assert (found.accepted, found.errors, found.coverage.value) == (59, 0, 1.0)
    short = find_refusal(sure[1:], np.ones(58, dtype=bool))
    assert (short.rows, short.missing) == (58, short.needed - 58 if short.needed else None)
    assert "59" in short.reason


def test_the_threshold_search_matches_a_worked_example() -> None:
    # 90 rows: one walk from the 59 surest. It passes as long as the tail is at most 0.05, which one
    # error ends.
    confidence = np.linspace(0.99, 0.1, 90)
    right = np.ones(90, dtype=bool)
    right[75] = False
    found = find_accepted(confidence, right)
    assert found.accepted == 75
    assert found.threshold == pytest.approx((confidence[74] + confidence[75]) / 2)


def test_a_later_start_saves_what_an_early_error_ends() -> None:
    n = 400
    confidence = np.linspace(0.999, 0.5, n)
    right = np.ones(n, dtype=bool)
    right[[3, 9]] = False
    walks = max(
        walks
        for walks in range(1, 20)
        if round(compute_min_rows(0.05, 0.05 / walks) * START_GROWTH ** (walks - 1)) <= n
    )
    assert walks > 1
    assert find_accepted(confidence, right).accepted == n
    assert binom.cdf(1, 59, 0.05) > 0.05  # a walk from the 59 surest alone would have died there


def test_equal_confidences_are_accepted_together() -> None:
    confidence = np.repeat([0.9, 0.6], [100, 100])
    right = np.repeat([True, False], [100, 100])
    found = find_accepted(confidence, right)
    assert (found.threshold, found.accepted) == (pytest.approx(0.75), 100)
    mixed = np.tile([True, False], 100)
    assert "same confidence" in find_refusal(np.full(200, 0.9), mixed).reason
    assert find_accepted(np.full(200, 0.9), np.ones(200, dtype=bool)).coverage.value == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 400), st.floats(0.02, 0.4), st.booleans())
def test_what_is_accepted_on_gold_passes_the_exact_test(
    seed: int, n: int, max_error: float, coarse: bool
) -> None:
    random = np.random.default_rng(seed)
    confidence = random.beta(4, 0.5, n)
    confidence = np.round(confidence, 1) if coarse else confidence
    right = random.random(n) < confidence
    found = run_acceptance(confidence, right, max_error=max_error)
    if isinstance(found, Acceptance):
        taken = found.select_accepted(confidence)
        assert (found.accepted, found.errors) == (taken.sum(), (~right[taken]).sum())
        assert binom.cdf(found.errors, found.accepted, max_error) <= 0.05
    else:
        assert found.rows == n


@pytest.mark.parametrize("by_class", [False, True])
def test_the_bound_holds(by_class: bool) -> None:
    """The promise itself: at most 10 of 200 samples, and two standard errors more, give a threshold
    that lets too much through.
    """
    confidence, right = draw_answers(60_000)
    classes = (np.arange(60_000) % 5 == 0).astype(np.int64)
    right[classes == 1] &= RANDOM.random(int((classes == 1).sum())) < 0.97
    broken = found = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).integers(0, len(right), 500)
        result = run_acceptance(
            confidence[rows], right[rows], classes=classes[rows] if by_class else None
        )
        if isinstance(result, Refusal):
            continue
        found += 1
        taken = result.select_accepted(confidence, classes)
        parts = [taken & (classes == number) for number in (0, 1)] if by_class else [taken]
        broken += any((~right[part]).mean() > 0.05 for part in parts if part.any())
    assert found > 60
    assert broken <= 16


def test_each_class_has_a_threshold_or_none() -> None:
    confidence = np.concatenate(
        [np.linspace(0.5, 1, 200), np.linspace(0.5, 1, 200), np.linspace(0.5, 1, 10)]
    )
    classes = np.repeat([0, 1, 2], [200, 200, 10])
    right = np.ones(410, dtype=bool)
    right[200:400:2] = False
    found = find_accepted(confidence, right, classes=classes, class_names=["a", "b", "c"])
    assert [(rule.name, rule.accepted) for rule in found.class_thresholds.values()] == [
        ("a", 200),
        ("b", 0),
        ("c", 0),
    ]
    assert found.threshold is None
    assert found.select_accepted(
        np.array([0.99, 0.99, 0.99, np.nan]), np.array([0, 1, 2, 0])
    ).tolist() == [True, False, False, False]
    # A class that gold never saw.
    assert found.select_accepted(np.array([0.99]), np.array([7])).tolist() == [False]
    with pytest.raises(UsageError):
        found.select_accepted(np.array([0.9]))
    (table,) = [block for block in build_result_blocks(found) if isinstance(block, ReportTable)]
    assert len(table.lines) == 3


def test_rows_without_an_answer_are_no_class() -> None:
    confidence = np.concatenate([np.linspace(0.5, 1, 200), np.full(5, np.nan)])
    classes = np.repeat([0, -1], [200, 5])
    found = find_accepted(confidence, np.arange(205) < 200, classes=classes, class_names=["-1"])
    assert [(rule.name, rule.rows) for rule in found.class_thresholds.values()] == [("-1", 200)]
    assert found.select_accepted(np.array([0.9, 0.9]), np.array([0, -1])).tolist() == [True, False]


def test_a_small_class_costs_the_others_nothing() -> None:
    confidence, right = np.linspace(0.5, 1, 70), np.ones(70, dtype=bool)
    crowd = np.concatenate([np.zeros(60, dtype=np.int64), np.arange(1, 11)])
    found = find_accepted(confidence, right, classes=crowd)
    # 59 rows are enough only where the risk is not divided.
    assert found.class_thresholds[0].accepted == 60


def test_of_each_group_one_row_is_used() -> None:
    groups = np.repeat(np.arange(100), [1 + index % 4 for index in range(100)])
    chosen = sample_one_per_group(groups, seed=3)
    assert groups[chosen].tolist() == list(range(100))
    assert chosen.tolist() == sample_one_per_group(groups, seed=3).tolist()
    shares = (
        np.bincount(
            [int(sample_one_per_group(np.zeros(4, dtype=int), seed)[0]) for seed in range(2000)]
        )
        / 2000
    )
    assert shares == pytest.approx(np.full(4, 0.25), abs=0.05)
    confidence = np.linspace(0.5, 1, len(groups))
    found = find_accepted(confidence, np.ones(len(groups), dtype=bool), groups=groups)
    assert (found.rows, found.grouped) == (100, True)
    # Copies of 30 rows are 30 rows.
    copies = np.repeat(np.arange(30), 20)
    refusal = find_refusal(np.tile(0.9, 600), np.ones(600, dtype=bool), groups=copies)
    assert "(one gold row of each group counts; about 144 more groups with gold" in str(refusal)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_rows_are_refused(n: int) -> None:
    found = find_refusal(np.full(n, 0.9), np.ones(n, dtype=bool))
    assert found.rows == n
    assert found.needed is not None
    assert found.missing is not None
    assert found.needed >= 59
    assert found.to_json()["refused"]


def test_rows_without_confidence_are_never_accepted_and_count_in_coverage() -> None:
    confidence = np.concatenate([np.linspace(0.5, 1, 100), np.full(100, np.nan)])
    found = find_accepted(confidence, np.ones(200, dtype=bool))
    assert (found.accepted, found.rows_without_confidence, found.coverage.value) == (100, 100, 0.5)
    assert (
        "no answer has a confidence"
        in find_refusal(np.full(80, np.nan), np.ones(80, dtype=bool)).reason
    )


def test_a_refusal_foresees_what_would_do() -> None:
    confidence, right = draw_answers(100, 6, 0.6)
    output = []
    for seed in range(20):
        rows = np.random.default_rng(seed).integers(0, 100, 58)
        output.append(find_refusal(confidence[rows], right[rows]).needed)
    assert any(needed and needed > 59 for needed in output)
    hopeless = find_refusal(np.linspace(0, 1, 400), np.tile([True, False], 200))
    assert hopeless.needed is None
    assert "hardly help" in hopeless.reason


def test_a_refusal_for_equal_confidences_foresees_what_would_do() -> None:
    """Two errors in 100 are too few rows for 5 %, not too many errors."""
    few = find_refusal(np.full(100, 0.9), np.arange(100) >= 2)
    assert "no threshold can promise at most 5 % error with 95 % confidence on these" in few.reason
    assert few.needed is not None
    enough = round(few.needed)
    find_accepted(np.full(enough, 0.9), np.arange(enough) >= round(0.02 * enough))
    many = find_refusal(np.full(100, 0.9), np.arange(100) % 4 > 0)
    assert many.needed is None


def test_the_needed_rows_do_not_depend_on_the_order_of_equal_confidences() -> None:
    """A quarter of all answers is wrong, which no threshold between them can help."""
    confidence = np.concatenate([np.full(300, 0.9), [0.5]])
    right = np.arange(301) % 4 > 0
    found = [find_refusal(confidence, np.append(np.sort(right[:300])[::-1], True)).needed]
    found.append(find_refusal(confidence, right).needed)
    assert found == [None, None]


def test_rows_without_confidence_are_part_of_the_needed_ones() -> None:
    confidence = np.concatenate([np.linspace(0.5, 1, 50), np.full(50, np.nan)])
    short = find_refusal(confidence, np.arange(100) < 50)
    assert "fewer than 59 gold rows with a confidence" in short.reason
    assert short.needed is not None
    assert short.needed >= 118


@pytest.mark.parametrize(
    "more", [{"max_error": 0.0}, {"max_error": 1.0}, {"level": 1.5}, {"level": float("nan")}]
)
def test_shares_are_checked(more: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        run_acceptance(np.array([0.5]), np.array([True]), **more)  # type: ignore[arg-type]


def test_what_is_written_down() -> None:
    found = find_accepted(
        np.linspace(0.5, 1, 300), np.ones(300, dtype=bool), max_error=0.1, level=0.9
    )
    output = json.loads(json.dumps(found.to_json()))
    assert {"threshold", "coverage", "max_error", "confidence"} <= output.keys()
    assert (output["max_error"], output["confidence"], output["coverage"]) == (0.1, 0.9, 1.0)
    assert "at most 10 % of the accepted are wrong, with 90 % confidence" in describe_result(found)
    assert len(build_result_blocks(found)) == 3


def test_review_effort_goes_where_it_removes_most_errors() -> None:
    confidence = np.array([0.9, 0.2, np.nan, 0.9, 0.5, 0.95])
    order, worth = rank_for_review(confidence)
    assert order.tolist() == [2, 1, 4, 0, 3, 5]
    assert worth == pytest.approx([1, 0.8, 0.5, 0.1, 0.1, 0.05])
    # A text that occurs in twenty rows counts as twenty labelled rows, which stay together.
    same = np.array([0] * 20 + [1, 2])
    order, worth = rank_for_review(np.array([0.9] * 20 + [0.2, 0.5]), duplicate_codes=same)
    assert order.tolist() == [*range(20), 20, 21]
    assert worth[0] == pytest.approx(2.0)
    # A model that wanted to say something else is not believed.
    order, _ = rank_for_review(np.array([0.6, 0.9]), off_set=np.array([np.nan, 0.8]))
    assert order.tolist() == [1, 0]
    assert (
        rank_for_review(np.zeros(0), duplicate_codes=np.zeros(0, dtype=np.int64))[0].tolist() == []
    )


def test_a_walk_that_has_failed_is_not_resumed() -> None:
    """115 rows have room for one walk, which starts with the 59 surest. One of these is wrong, so
    it ends there, although from 93 rows on the tail of one error is small enough.
    """
    confidence = np.linspace(1, 0.5, 115)
    right = np.arange(115) > 0
    assert binom.cdf(1, 115, 0.05) < 0.05
    find_refusal(confidence, right)
    find_accepted(confidence, np.ones(115, dtype=bool))
