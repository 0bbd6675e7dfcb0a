"""What all kinds tell of their figures in the same words: the table of all, how intervals were
made, when groups are too few.
"""

from __future__ import annotations

from collections.abc import Mapping

from medtask.evaluate.blocks import Block, Heading, Table
from medtask.evaluate.intervals import FEW_GROUPS, RESAMPLES, Estimate
from medtask.evaluate.words import MEASURES, capital

BOOTSTRAP = f"a bootstrap of {RESAMPLES:,} resamples"


def tell_figures(figures: Mapping[str, Estimate | None]) -> list[Block]:
    """Every figure with its interval and rows; a dash where these rows leave it undefined."""
    lines = [
        (
            capital(MEASURES[measure]),
            *((f"{one.value:.3f}", one.interval, f"{one.n:,}") if one else ("–", "–", "–")),
        )
        for measure, one in figures.items()
    ]
    return [
        Heading("All figures"),
        Table(
            "All figures",
            (("Figure", ""), ("Value", "n"), ("95 % interval", "n"), ("Rows", "n")),
            lines,
        ),
    ]


def describe_intervals(shares: str, others: str, groups: int | None) -> str:
    """How the intervals of ``shares`` and of ``others`` were made; ``groups``: see Units."""
    if groups is None:
        return f"Intervals are 95 %: Wilson’s for {shares}, {BOOTSTRAP} of the rows for {others}."
    return (
        f"Intervals are 95 %, {BOOTSTRAP} of the {groups:,} groups: rows of one group are not "
        "independent, and are drawn together. "
        "The tests against baselines take rows as independent all the same: differences may look "
        "clearer than they are."
    )


def warn_of_groups(groups: int | None) -> list[str]:
    """A sentence where intervals come from too few groups."""
    if groups is None or groups >= FEW_GROUPS:
        return []
    one = groups == 1
    return [
        (
            f"Its rows come from {groups} group{'s' * (not one)} only: the intervals are rough, "
            "and "
            "likely too narrow."
        )
    ]
