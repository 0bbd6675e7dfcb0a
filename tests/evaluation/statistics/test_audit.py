from __future__ import annotations

import json

import numpy as np
import pytest

from medtask.errors import UsageError
from medtask.evaluation.presentation.blocks import ReportTable
from medtask.evaluation.report.audit_report import build_audit_blocks, list_audit_lines
from medtask.evaluation.statistics.audit import (
    AuditResult,
    LabelColumns,
    _StratifiedEstimator,
    estimate_audit,
)
from medtask.evaluation.statistics.audit_plan import AuditPlan, plan_audit
from medtask.evaluation.statistics.refusal import Refusal

RANDOM = np.random.default_rng(20261120)
LABELS = ("a", "b", "c", "d")


def draw_answers(
    n: int, a: float = 6.0, b: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, their confidence, and the truth, which they hit as often as they say."""
    answers = RANDOM.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
    confidence = RANDOM.beta(a, b, n)
    gold = np.where(
        RANDOM.random(n) < confidence, answers, (answers + RANDOM.integers(1, 4, n)) % 4
    )
    return answers, confidence, gold


def run_audit(
    plan: AuditPlan,
    answers: np.ndarray,
    confidence: np.ndarray,
    gold: np.ndarray,
    rows: np.ndarray | None = None,
) -> AuditResult:
    rows = plan.sampled_rows if rows is None else rows
    found = estimate_audit(
        plan,
        rows,
        answers[rows] == gold[rows],
        confidence,
        LabelColumns(
            LABELS,
            gold[rows][:, None] == np.arange(4),
            (answers[:, None] == np.arange(4)).astype(float),
        ),
    )
    assert isinstance(found, AuditResult), found
    return found


def test_a_plan_is_the_same_every_time_and_complete() -> None:
    answers, confidence, _ = draw_answers(3000)
    plan = plan_audit(answers, confidence, 120, seed=4)
    assert plan.to_json() == plan_audit(answers, confidence, 120, seed=4).to_json()
    assert (
        plan.sampled_rows.tolist()
        != plan_audit(answers, confidence, 120, seed=5).sampled_rows.tolist()
    )
    assert len(set(plan.sampled_rows.tolist())) == 120
    assert np.bincount(plan.row_strata).tolist() == [one.rows for one in plan.strata]
    assert np.bincount(plan.row_strata[plan.sampled_rows]).tolist() == [
        one.drawn for one in plan.strata
    ]
    assert min(one.drawn for one in plan.strata) >= 5
    for number, one in enumerate(plan.strata):
        own = plan.row_strata == number
        assert one.answer is None or set(answers[own]) == {one.answer}
        assert (confidence[own].min(), confidence[own].max()) == (one.low, one.high)
    json.dumps(plan.to_json())


def test_more_looks_go_where_the_model_is_unsure() -> None:
    answers, confidence, _ = draw_answers(3000)
    plan = plan_audit(answers, confidence, 300)
    rates = [(one.low, one.drawn / one.rows) for one in plan.strata if one.answer == 0]
    assert len(rates) > 2
    assert [rate for _, rate in sorted(rates)] == sorted((rate for _, rate in rates), reverse=True)


@pytest.mark.parametrize("budget", [30, 120, 1000])
@pytest.mark.parametrize("n", [1, 40, 500])
def test_plans_of_any_size(n: int, budget: int) -> None:
    answers, confidence, _ = draw_answers(n)
    confidence[:: max(1, n // 3)] = np.nan
    answers[0] = -1
    plan = plan_audit(answers, confidence, budget)
    assert len(plan.sampled_rows) == min(n, budget)
    assert np.isfinite([one.low for one in plan.strata]).all()


def test_what_cannot_be_planned() -> None:
    answers, confidence, _ = draw_answers(100)
    with pytest.raises(UsageError, match="too few"):
        plan_audit(answers, confidence, 29)
    with pytest.raises(UsageError, match="no answers"):
        plan_audit(answers[:0], confidence[:0], 120)


@pytest.mark.slow  # ppi_py takes seconds to import
def test_without_strata_it_is_prediction_powered_inference() -> None:
    pytest.importorskip("ppi_py", reason="ppi-python is not installed")
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    answers, confidence, gold = draw_answers(100_000)
    right = (answers == gold).astype(float)
    looked_at = RANDOM.choice(100_000, 400, replace=False)
    survey = _StratifiedEstimator(
        looked_at, np.zeros(100_000, dtype=np.int64), np.array([100_000.0]), np.array([400.0])
    )
    for power in (0.0, 0.4, 1.0, None):
        found, used = survey.estimate_mean(right[looked_at], confidence, power)
        sample = right[looked_at], confidence[looked_at]
        # Theirs takes all other rows as another sample; of very many copies of the table its own
        # spread is nothing.
        assert found.value == pytest.approx(
            float(np.ravel(ppi_mean_pointestimate(*sample, confidence, lam=used))[0])
        )
        low, high = (
            float(np.ravel(one)[0])
            for one in ppi_mean_ci(*sample, np.tile(confidence, 20), alpha=0.05, lam=used)
        )
        assert found.low is not None
        assert found.high is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    tuned = survey.estimate_mean(right[looked_at], confidence)[1]
    covariance = np.cov(right[looked_at], confidence[looked_at])
    assert tuned == pytest.approx(min(1.0, covariance[0, 1] / covariance[1, 1]), abs=0.05)


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (6.0, 1.0), (20.0, 0.5)])
def test_intervals_cover_and_are_tighter(a: float, b: float) -> None:
    answers, confidence, gold = draw_answers(2000, a, b)
    accuracy, shares = (answers == gold).mean(), np.bincount(gold, minlength=4) / 2000
    hits, widths, alone, prevalences, values = 0, 0.0, 0.0, np.zeros(4), []
    for seed in range(60):
        found = run_audit(plan_audit(answers, confidence, 120, seed), answers, confidence, gold)
        one, other = found.accuracy, found.alone
        hits += (one.low or 0) <= accuracy <= (one.high or 0)
        widths += (one.high or 0) - (one.low or 0)
        alone += (other.high or 0) - (other.low or 0)
        values.append(one.value)
        output = [one.estimate for one in found.prevalences]
        prevalences += [
            (one.low or 0) <= share <= (one.high or 0)
            for one, share in zip(output, shares, strict=True)
        ]
    assert hits >= 52  # 57 are expected, and two standard errors are 3.4
    assert prevalences.min() >= 50
    assert widths < alone
    assert np.mean(values) == pytest.approx(accuracy, abs=4 * np.std(values) / np.sqrt(60))


def test_answers_that_lie_do_no_harm() -> None:
    answers, _, gold = draw_answers(3000)
    boast = np.full(3000, 0.999)
    wrong = np.where(RANDOM.random(3000) < 0.5, answers, (answers + 1) % 4)
    accuracy = (wrong == gold).mean()
    found = [
        run_audit(plan_audit(wrong, boast, 120, seed), wrong, boast, gold).accuracy
        for seed in range(40)
    ]
    assert sum((one.low or 0) <= accuracy <= (one.high or 0) for one in found) >= 35


def test_a_table_that_was_read_whole_has_no_doubt_left() -> None:
    answers, confidence, gold = draw_answers(60)
    found = run_audit(plan_audit(answers, confidence, 100), answers, confidence, gold)
    assert (
        found.accuracy.value
        == found.accuracy.low
        == found.accuracy.high
        == pytest.approx((answers == gold).mean())
    )
    assert [one.estimate.value for one in found.prevalences] == pytest.approx(
        (np.bincount(gold, minlength=4) / 60).tolist()
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_and_all_wrong_keep_their_doubt(share: float) -> None:
    answers, confidence, _ = draw_answers(2000)
    gold = answers if share else (answers + 1) % 4
    found = run_audit(plan_audit(answers, confidence, 120), answers, confidence, gold)
    assert 0.001 < (found.accuracy.high or 0) - (found.accuracy.low or 0) < 0.08
    assert abs(found.accuracy.value - share) < 0.03


def test_missing_labels_are_reported_and_too_few_refused() -> None:
    answers, confidence, gold = draw_answers(2000)
    plan = plan_audit(answers, confidence, 120)
    most = np.sort(RANDOM.choice(plan.sampled_rows, 110, replace=False))
    found = run_audit(plan, answers, confidence, gold, most)
    assert (found.looks, found.missing) == (110, 10)
    assert any("10 rows of the sample have no label" in line for line in list_audit_lines(found))
    for rows, reason in (
        (plan.sampled_rows[:20], "too few"),
        (plan.sampled_rows[plan.row_strata[plan.sampled_rows] > 0], "fewer than two"),
    ):
        refused = estimate_audit(plan, rows, answers[rows] == gold[rows], confidence)
        assert isinstance(refused, Refusal)
        assert reason in refused.reason
    assert isinstance(
        estimate_audit(plan, plan.sampled_rows[:0], np.zeros(0, dtype=bool), confidence), Refusal
    )
    strange = np.setdiff1d(np.arange(2000), plan.sampled_rows)[:40]
    with pytest.raises(UsageError, match="not drawn"):
        estimate_audit(plan, strange, np.ones(40, dtype=bool), confidence)


def test_rows_without_answer_or_confidence() -> None:
    answers, confidence, gold = draw_answers(1000)
    answers[:200] = -1
    confidence[:200] = np.nan
    found = run_audit(
        plan_audit(answers, confidence, 120), answers, np.where(answers < 0, 0.0, confidence), gold
    )
    assert abs(found.accuracy.value - (answers == gold).mean()) < 0.12
    unknown = np.full(1000, np.nan)
    found = run_audit(plan_audit(answers, unknown, 120), answers, unknown, gold)
    assert (found.accuracy.high or 0) - (found.accuracy.low or 0) < 0.25


def test_the_summary_lines_of_an_audit() -> None:
    answers, confidence, gold = draw_answers(1000)
    found = run_audit(plan_audit(answers, confidence, 120), answers, confidence, gold)
    lines = list_audit_lines(found)
    assert lines[0].startswith(
        f"accuracy {found.accuracy} of all 1,000 rows, from 120 labelled rows"
    )
    assert len(lines) == 5
    # A terminal shows the marks of direction as they are written.
    assert "\u2068" not in "".join(lines)
    (table,) = [block for block in build_audit_blocks(found) if isinstance(block, ReportTable)]
    assert len(table.lines) == 4
    assert json.loads(json.dumps(found.to_json()))["accuracy"]["n"] == 120


def test_intervals_of_a_table_cover_whatever_rows_of_a_group_have_in_common() -> None:
    """The rows that are labelled are drawn one by one, so that groups do not matter."""
    random = np.random.default_rng(3)
    confidence = np.repeat(random.beta(5, 1.5, 100), 10)
    right = np.repeat(random.random(100), 10) < confidence
    covers = 0
    for seed in range(100):
        plan = plan_audit(np.zeros(1000, dtype=np.int64), confidence, 120, seed=seed)
        found = estimate_audit(plan, plan.sampled_rows, right[plan.sampled_rows], confidence)
        assert isinstance(found, AuditResult)
        assert found.accuracy.low is not None
        assert found.accuracy.high is not None
        covers += found.accuracy.low <= right.mean() <= found.accuracy.high
    assert covers >= 90
