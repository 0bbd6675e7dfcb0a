"""Formats the result of a run as a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from medtask.display import format_row_count
from medtask.evaluation.kinds.metric_report import warn_about_few_groups
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation.formatting import (
    describe_left_out,
    format_metric,
    format_p_value,
)
from medtask.evaluation.report.baseline_text import list_baseline_warnings
from medtask.evaluation.report.gold_summary import GoldSummary
from medtask.evaluation.report.run_summary import STATUS_NAMES, RunSummary
from medtask.evaluation.statistics.pass_changes import PassSummary
from medtask.evaluation.statistics.significance import Baseline
from medtask.kinds import KINDS
from medtask.records import Status

_ALWAYS_SHOWN = frozenset({Status.OK, Status.REVIEW, Status.FAILED})


def format_summary_lines(summary: RunSummary, baselines: Sequence[Baseline] = ()) -> list[str]:
    """Rows by status, metrics with intervals and those of baselines, and warnings."""
    counts = {status: summary.statuses.get(status, 0) for status in STATUS_NAMES}
    lines = [
        "   ".join(
            f"{STATUS_NAMES[status]} {n:,}"
            for status, n in counts.items()
            if n or status in _ALWAYS_SHOWN
        )
    ]
    statistics = summary.answer_statistics.format_summary()
    lines += [statistics] if statistics else []
    lines += [_format_pass(one) for one in summary.passes]
    if summary.gold is None:
        return lines
    kind = get_evaluation_kind(summary.kind)
    if summary.gold.unknown:
        lines.append(
            f"gold of {format_row_count(summary.gold.unknown)} is not {kind.texts.gold_form}: not "
            "counted"
        )
    lines += describe_left_out(summary.gold.left_out, summary.gold.rows)
    if summary.gold.evaluation is None:
        if not summary.gold.left_out:
            lines.append("no row has usable gold, so there are no metrics")
        return lines
    lines += _format_metrics(summary.gold, baselines, kind.summary_has_all_headlines)
    if kind.summary_has_caveats:
        lines += summary.gold.evaluation.describe_caveats()
    lines += warn_about_few_groups(summary.gold.evaluation.groups)
    return [*lines, *list_baseline_warnings(baselines, KINDS[summary.kind].has_labels)]


def _format_metrics(
    gold: GoldSummary, baselines: Sequence[Baseline], with_further: bool
) -> list[str]:
    assert gold.evaluation is not None
    known = gold.evaluation.metrics
    (name, first), *further = [
        (name, metric) for name in gold.evaluation.headline_metrics if (metric := known[name])
    ]
    value, _, rest = format_metric(first).partition(" (")
    parts = [f"{get_metric_title(name)} {value} ({rest.removesuffix(')')} with gold)"]
    reached = {one.name: metric for one in baselines if (metric := one.metrics.get(name))}
    parts += [f"{baseline} {metric.value:.3f}" for baseline, metric in reached.items()]
    sampled = min((metric.n for metric in reached.values()), default=first.n)
    limited = ", to limit their time" if any(one.sampled_from for one in baselines) else ""
    if sampled < first.n:
        parts.append(f"(baselines on {sampled:,} random rows of them{limited})")
    lines = ["   ".join(parts)]
    if further and with_further:
        lines.append(
            "   ".join(f"{get_metric_title(name)} {format_metric(one)}" for name, one in further)
        )
    return lines


def _format_pass(one: PassSummary) -> str:
    text = (
        f'pass "{one.name}" asked {format_row_count(one.asked)} again: {one.changed:,} changed, '
        f"{one.gained:,} gained an answer, {one.lost:,} lost it"
    )
    if one.before_after is None or one.p is None:
        return text
    (_, corrected), (spoiled, right) = one.before_after
    return (
        f"{text}; right {spoiled + right:,} -> {corrected + right:,} of {one.graded:,} with gold "
        f"({format_p_value(one.p)})"
    )
