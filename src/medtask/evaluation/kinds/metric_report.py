"""The table of metrics, and sentences on intervals and groups, for all kinds."""

from __future__ import annotations

from collections.abc import Mapping

from medtask.display import capitalise_first, format_count
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.blocks import Heading, ReportBlock, ReportTable
from medtask.evaluation.statistics.intervals import MIN_GROUPS, N_RESAMPLES, Metric

BOOTSTRAP_DESCRIPTION = f"a bootstrap of {N_RESAMPLES:,} resamples"


def build_metric_table(metrics: Mapping[str, Metric | None]) -> list[ReportBlock]:
    """Every metric with its interval and rows; dashes if undefined."""
    lines = [
        (
            capitalise_first(get_metric_title(measure)),
            *((f"{one.value:.3f}", one.interval_text, f"{one.n:,}") if one else ("–", "–", "–")),
        )
        for measure, one in metrics.items()
    ]
    return [
        Heading("All metrics"),
        ReportTable(
            "All metrics",
            (("Metric", ""), ("Value", "n"), ("95 % interval", "n"), ("Rows", "n")),
            lines,
        ),
    ]


def describe_intervals(share_metrics: str, other_metrics: str, groups: int | None) -> str:
    """Describe the computation of the intervals; for ``groups`` see `ResamplingUnits`."""
    if groups is None:
        return (
            f"Intervals are 95 %: Wilson’s for {share_metrics}, {BOOTSTRAP_DESCRIPTION} of "
            f"the rows for {other_metrics}."
        )
    return (
        f"Intervals are 95 %, {BOOTSTRAP_DESCRIPTION} of the {groups:,} groups: rows of one group "
        "are not independent and are drawn together."
    )


def describe_tests(groups: int | None, otherwise: str) -> str:
    """Describe the tests against baselines; ``otherwise`` are those of independent rows."""
    if groups is None:
        return otherwise
    return (
        "Differences from baselines are tested by the randomisation of whole groups (p below 0.05)."
    )


def warn_about_few_groups(groups: int | None) -> list[str]:
    """A sentence if intervals are based on too few groups."""
    if groups is None or groups >= MIN_GROUPS:
        return []
    return [
        f"The rows come from {format_count(groups, 'group')} only: the intervals are rough and "
        "probably too narrow."
    ]
