from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from markupsafe import Markup
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, log_loss

from medtask.evaluation.calibration.reliability import (
    Reliability,
    compute_ece,
    compute_proper_scores,
    compute_reliability,
    compute_risk_curve,
)
from medtask.evaluation.presentation.blocks import ReportPlot, ReportTable
from medtask.evaluation.report.calibration_report import (
    build_reliability_blocks,
    build_result_blocks,
    build_risk_blocks,
    describe_result,
)

RANDOM = np.random.default_rng(20261120)


def draw_confidences(n: int, overconfidence: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right ``overconfidence`` less often than they say."""
    confidence = RANDOM.beta(5, 1, n)
    return confidence, RANDOM.random(n) < confidence - overconfidence


def measure_answers(confidence: np.ndarray, right: np.ndarray, **more: object) -> Reliability:
    found = compute_reliability(confidence, right, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def compute_reference_ece(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = [(confidence >= low) & (confidence < low + 0.1) for low in np.arange(10) / 10]
    bins[-1] |= confidence == 1
    return sum(
        part.mean() * abs(confidence[part].mean() - right[part].mean())
        for part in bins
        if part.any()
    )


def test_error_and_scores_equal_independent_ones() -> None:
    confidence, right = draw_confidences(700, 0.1)
    found = measure_answers(confidence, right)
    assert found.ece.value == pytest.approx(compute_reference_ece(confidence, right))
    assert found.ece.value == pytest.approx(compute_ece(confidence, right))
    assert found.brier.value == pytest.approx(brier_score_loss(right, confidence))
    assert found.log_loss.value == pytest.approx(
        log_loss(right, np.clip(confidence, 1e-6, 1 - 1e-6))
    )
    assert sum(one.right.n for one in found.bins) == 700
    for one in found.bins:
        inside = (confidence >= one.low) & (confidence < one.high)
        wilson = binomtest(int(right[inside].sum()), int(inside.sum())).proportion_ci(
            method="wilson"
        )
        assert (one.right.low, one.right.high) == pytest.approx((wilson.low, wilson.high))
        assert one.confidence == pytest.approx(confidence[inside].mean())


def test_whole_distributions_are_scored_as_scikit_learn_does() -> None:
    shares = RANDOM.dirichlet([1, 1, 1], 400)
    gold = RANDOM.integers(0, 3, 400)
    scores = compute_proper_scores(shares, gold)
    assert scores["log_loss"].mean() == pytest.approx(log_loss(gold, shares))
    assert scores["brier"].mean() == pytest.approx(
        brier_score_loss(gold, shares, labels=[0, 1, 2], scale_by_half=False)
    )
    each = RANDOM.random((400, 2))
    truth = RANDOM.random((400, 2)) < each
    assert compute_proper_scores(each, truth)["log_loss"].mean() == pytest.approx(
        np.mean([log_loss(truth[:, k], each[:, k]) for k in (0, 1)])
    )
    output = measure_answers(
        shares.max(axis=1), shares.argmax(axis=1) == gold, scores=scores
    ).distribution_scores
    assert output["brier"].value == pytest.approx(scores["brier"].mean())


def test_options_that_a_row_lacks_count_for_nothing() -> None:
    shares = np.array([[0.5, 0.5, np.nan], [0.2, 0.3, 0.5]])
    scores = compute_proper_scores(shares, np.array([0, 2]))
    assert scores["log_loss"] == pytest.approx([np.log(2), np.log(2)])
    assert scores["brier"] == pytest.approx([0.5, 0.04 + 0.09 + 0.25])


def test_miscalibration_is_reported_only_where_it_is_significant() -> None:
    accused = [measure_answers(*draw_confidences(300), seed=seed).p < 0.05 for seed in range(12)]
    assert sum(accused) <= 3  # 0.6 are expected
    overconfident = measure_answers(*draw_confidences(300, 0.2))
    assert overconfident.p < 0.01
    assert "is overconfident" in describe_result(overconfident)
    assert overconfident.ece.low is not None
    assert overconfident.ece.low > 0


def test_chance_is_what_a_simulation_shows() -> None:
    confidence, right = draw_confidences(200)
    found = measure_answers(confidence, right)
    simulated = [
        compute_reference_ece(confidence, RANDOM.random(200) < confidence) for _ in range(400)
    ]
    assert found.ece_by_chance == pytest.approx(np.mean(simulated), abs=0.004)
    assert found.ece_chance_limit == pytest.approx(np.percentile(simulated, 95), abs=0.01)


def test_rows_of_a_group_widen_the_intervals() -> None:
    confidence, right = draw_confidences(200, 0.1)
    twice, answers = np.repeat(confidence, 5), np.repeat(right, 5)
    groups = np.repeat(np.arange(200), 5)
    alone, grouped = measure_answers(twice, answers), measure_answers(twice, answers, groups=groups)
    for one, other in (
        (alone.ece, grouped.ece),
        (alone.brier, grouped.brier),
        (alone.accuracy, grouped.accuracy),
    ):
        assert one.value == pytest.approx(other.value)
        assert one.n == other.n == 1000
        assert (other.high or 0) - (other.low or 0) > 1.5 * ((one.high or 0) - (one.low or 0))


def test_rows_of_a_group_are_no_sign_of_miscalibration() -> None:
    """A calibrated model: the rows of a group are right or wrong together."""
    accused = {True: 0, False: 0}
    for seed in range(20):
        random = np.random.default_rng(seed)
        confidence = np.repeat(random.beta(5, 1, 60), 10)
        right = np.repeat(random.random(60), 10) < confidence
        for grouped in accused:
            groups = np.repeat(np.arange(60), 10) if grouped else None
            found = measure_answers(confidence, right, groups=groups, seed=seed)
            accused[grouped] += found.p < 0.05
    assert accused[True] <= 5
    assert accused[False] > 15
    off = measure_answers(
        confidence, right & (np.arange(600) % 2 == 0), groups=np.repeat(np.arange(60), 10)
    )
    assert off.p < 0.01
    single = [measure_answers(confidence, right, groups=g) for g in (None, np.arange(600))]
    assert single[0].ece_by_chance == pytest.approx(single[1].ece_by_chance)


@pytest.mark.parametrize(
    ("confidence", "right"),
    [
        ([0.5], [True]),
        ([1.0], [False]),
        ([0.7] * 30, [True] * 30),
        ([0.7] * 30, [True, False] * 15),
        ([0.0, 1.0], [True, False]),
        ([0.4, np.nan], [True, True]),
    ],
)
def test_degenerate_rows(confidence: list[float], right: list[bool]) -> None:
    found = measure_answers(np.array(confidence), np.array(right))
    assert found.rows + found.rows_without_confidence == len(right)
    assert 0 <= found.ece.value <= 1
    assert np.isfinite(found.log_loss.value)
    assert build_result_blocks(found)
    assert found.to_json()["rows"] == found.rows


@pytest.mark.parametrize("confidence", [[], [np.nan, np.nan]])
def test_without_a_confidence_there_is_nothing_to_tell(confidence: list[float]) -> None:
    assert compute_reliability(np.array(confidence), np.ones(len(confidence), dtype=bool)) is None


def test_the_risk_curve_by_hand() -> None:
    curve = compute_risk_curve(
        np.array([0.9, 0.5, 0.8, 0.5, np.nan]), np.array([True, False, False, True, True])
    )
    assert curve.coverage == pytest.approx((0.2, 0.4, 0.8))
    assert curve.thresholds == (0.9, 0.8, 0.5)
    assert [one.value for one in curve.error] == [0, 0.5, 0.5]
    assert curve.aurc == pytest.approx((0 + 0.5 + 2 * 0.5) / 4)
    for one, wrong in zip(curve.error, (0, 1, 2), strict=True):
        exact = binomtest(wrong, one.n).proportion_ci(method="exact")
        assert (one.low, one.high) == pytest.approx((exact.low, exact.high))


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    confidence, right = draw_confidences(5000)
    curve = compute_risk_curve(confidence, right)
    assert len(curve.coverage) <= 100
    assert curve.coverage[-1] == 1
    assert curve.error[-1].value == pytest.approx(1 - right.mean())
    order = np.argsort(-confidence)
    assert curve.aurc == pytest.approx(np.mean(np.cumsum(~right[order]) / np.arange(1, 5001)))
    assert compute_risk_curve(np.zeros(0), np.zeros(0, dtype=bool)).coverage == ()


def test_what_the_report_shows() -> None:
    scores = {"brier": np.full(300, 0.2), "log_loss": np.full(300, 0.3)}
    found = measure_answers(*draw_confidences(300), scores=scores)
    output = found.to_json()
    assert output["log_loss"] == asdict(found.log_loss) and output["all_labels"] == {
        name: asdict(one) for name, one in found.distribution_scores.items()
    }
    blocks = build_result_blocks(found)
    pictures = [block.drawn for block in blocks if isinstance(block, ReportPlot)]
    assert len(pictures) == 2
    assert build_reliability_blocks(found, include_risk=False) == [
        block for block in blocks if block not in build_risk_blocks(found)
    ]
    assert all(
        isinstance(drawn, Markup) and "NaN" not in drawn and "viewBox" not in drawn
        for drawn in pictures
    )
    (table,) = [block for block in blocks if isinstance(block, ReportTable)]
    assert "Brier score, all labels" in {line[0] for line in table.lines}
