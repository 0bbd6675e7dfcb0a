"""What all kinds tell of their figures in the same words: the table of all, how intervals were
made, when groups are too few.
"""

from __future__ import annotations

from collections.abc import Mapping

from medtask.display import capitalise_first
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.blocks import Heading, ReportBlock, ReportTable
from medtask.evaluation.statistics.intervals import MIN_GROUPS, N_RESAMPLES, Metric

BOOTSTRAP_DESCRIPTION = f"a bootstrap of {N_RESAMPLES:,} resamples"


def build_metric_table(metrics: Mapping[str, Metric | None]) -> list[ReportBlock]:
    """Every figure with its interval and rows; a dash where these rows leave it undefined."""
    lines = [
        (
            capitalise_first(get_metric_title(measure)),
            *((f"{one.value:.3f}", one.interval_text, f"{one.n:,}") if one else ("–", "–", "–")),
        )
        for measure, one in metrics.items()
    ]
    return [
        Heading("All figures"),
        ReportTable(
            "All figures",
            (("Figure", ""), ("Value", "n"), ("95 % interval", "n"), ("Rows", "n")),
            lines,
        ),
    ]


def describe_intervals(share_metrics: str, other_metrics: str, groups: int | None) -> str:
    """How the intervals of ``share_metrics`` and of ``other_metrics`` were made; ``groups``:
    see Units.
    """
    if groups is None:
        return (
            f"Intervals are 95 %: Wilson’s for {share_metrics}, {BOOTSTRAP_DESCRIPTION} of "
            f"the rows for {other_metrics}."
        )
    return (
        f"Intervals are 95 %, {BOOTSTRAP_DESCRIPTION} of the {groups:,} groups: rows of one "
        "group are not "
        "independent, and are drawn together. "
        "The tests against baselines take rows as independent all the same: differences may look "
        "clearer than they are."
    )


def warn_about_few_groups(groups: int | None) -> list[str]:
    """A sentence where intervals come from too few groups."""
    if groups is None or groups >= MIN_GROUPS:
        return []
    one = groups == 1
    return [
        (
            f"Its rows come from {groups} group{'s' * (not one)} only: the intervals are rough, "
            "and "
            "likely too narrow."
        )
    ]
