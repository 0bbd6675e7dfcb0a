"""Formats a judge's metrics as lines for a terminal."""

from __future__ import annotations

from medtask.display import format_count, format_percent, format_row_count, join_reasons
from medtask.evaluation.presentation.formatting import format_left_out
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.judge_metrics import (
    JudgeAgreement,
    JudgeMetrics,
    MissingJudgements,
)
from medtask.evaluation.statistics.pairwise_judge_metrics import PairwiseJudgeMetrics
from medtask.evaluation.statistics.refusal import Refusal

UNKNOWN_ERROR = (
    "no person has graded any of these answers, so the judge's error rate is unknown: do not "
    "report these metrics alone. Grade a random sample, such as 100 rows, and name it with --human"
)


def format_judge_metrics(metrics: JudgeMetrics) -> list[str]:
    """Lines for a terminal."""
    lines = _describe_unused(metrics)
    if not metrics.n:
        return [line for line in [*lines, "no judgement, so there are no metrics"] if line]
    lines.append(
        "grades   "
        + "   ".join(f"{name}: {format_count(rows)}" for name, rows in metrics.grades.items())
    )
    lines.append(_format_metric("mean grade", metrics.mean))
    lines.append(_format_metric("mean of the expected grades", metrics.expected))
    lines.append(
        _format_metric(
            f"acceptable (grade {metrics.scale.names[metrics.scale.passing_index]} or better)",
            metrics.acceptable,
        )
    )
    lines += (
        _format_agreement(metrics.human_agreement) if metrics.human_agreement else [UNKNOWN_ERROR]
    )
    return [line for line in lines if line]


_RANDOM_SAMPLE_NOTE = "  corrected metrics hold if the rows that people graded were drawn at random"


def _format_agreement(agreement: JudgeAgreement) -> list[str | None]:
    lost = f", {format_count(agreement.lost)} more without a judgement" if agreement.lost else ""
    unknown = "not known"
    return [
        f"against people, on {format_row_count(agreement.n)} that they graded{lost}:",
        _format_error_rates(agreement),
        (
            f"  kappa of the grades (quadratic) {agreement.kappa or unknown}   of acceptable or "
            f"not {agreement.kappa_acceptable or unknown}"
        ),
        _format_metric("  people alone: acceptable", agreement.human_share),
        _format_corrected("share", "acceptable", agreement.share, agreement.n),
        _format_metric("  people alone: mean grade", agreement.human_mean),
        _format_corrected("mean grade", "mean grade", agreement.mean, agreement.n),
        _RANDOM_SAMPLE_NOTE
        if any(isinstance(one, Metric) for one in (agreement.share, agreement.mean))
        else None,
    ]


def _format_error_rates(agreement: JudgeAgreement) -> str:
    rates = [
        ("sensitivity", "acceptable", agreement.sensitivity),
        ("specificity", "not acceptable", agreement.specificity),
    ]
    parts = [
        f"{name} {rate}, n = {format_count(rate.n)} {those}" if rate else f"{name} not known"
        for name, those, rate in rates
    ]
    return f"  {'   '.join(parts)}"


def format_pairwise_metrics(metrics: PairwiseJudgeMetrics, answers: str, other: str) -> list[str]:
    """Lines for a terminal; ``answers`` and ``other`` are the names of the two systems."""
    ties = metrics.first_position_ties + metrics.second_position_ties
    lines = _describe_unused(metrics)
    if not metrics.n:
        return [line for line in [*lines, "no verdict, so there are no metrics"] if line]
    sentence = (
        f"{answers} is better in {format_count(metrics.wins)} pairs, {other} in "
        f"{format_count(metrics.losses)}"
    )
    p = f" ({metrics.test} p = {metrics.p:.3g})" if metrics.p is not None else ""
    lines.append(
        f"{sentence}{p}; {format_count(ties)} decided by position alone, "
        f"{format_count(metrics.same)} with the same text"
    )
    lines.append(_format_metric(f"win rate of {answers} (a tie is half a win)", metrics.win_rate))
    lines.append(_format_metric("decided by position", metrics.by_place))
    lines.append(
        "the judge's error rate is unknown; people's verdicts on some of these pairs would show it"
    )
    return [line for line in lines if line]


def _format_corrected(figure: str, name: str, found: Metric | Refusal, by_people: int) -> str:
    if isinstance(found, Refusal):
        return f"  no corrected {figure}: {found.reason}"
    return (
        f"  corrected: {name} {found}, {format_count(by_people)} graded by people too and "
        f"{format_count(found.n - by_people)} by the judge alone"
    )


def _format_metric(name: str, estimate: Metric | None) -> str | None:
    return f"{name} {estimate}, n = {format_count(estimate.n)}" if estimate else None


def _describe_unused(metrics: JudgeMetrics | PairwiseJudgeMetrics) -> list[str | None]:
    """Lines on the rows that metrics are not based on."""
    left_out = format_left_out(metrics.left_out)
    return [
        _describe_missing(metrics.missing, metrics.missing_rate),
        f"left out of the metrics: {left_out}" if left_out else None,
    ]


def _describe_missing(missing: MissingJudgements, rate: float | None) -> str | None:
    """A phrase on missing judgements; None if nothing is missing.

    Example: "3 rows without an answer to judge; 12 judgements failed (5.0 % of those requested)".
    """
    failed = f"{format_count(missing.failed, 'judgement')} failed"
    parts = (
        f"{format_row_count(missing.unanswered)} without an answer to judge"
        if missing.unanswered
        else None,
        f"{format_row_count(missing.unreferenced)} without a reference to judge by"
        if missing.unreferenced
        else None,
        f"{failed} ({format_percent(rate)} of those that were asked for)"
        if missing.failed and rate is not None
        else None,
    )
    return join_reasons(*parts)
