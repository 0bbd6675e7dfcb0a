"""Formats metrics, answers and manifest values for reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from medtask.display import format_row_count, shorten
from medtask.evaluation.presentation.blocks import TableCell
from medtask.evaluation.statistics.extraction import flatten
from medtask.evaluation.statistics.intervals import Metric
from medtask.records import LeftOut

MAX_VALUE_CHARACTERS = 2000  # maximum characters of one value of the manifest
MISSING = "–"

_LEFT_OUT_PHRASES: Mapping[LeftOut, tuple[str, str]] = {  # for one row, and for several
    LeftOut.EXAMPLE: ("is an example in the prompt", "are examples in the prompt"),
    LeftOut.EXAMPLE_GROUP: (
        "is of the same group as an example",
        "are of the same group as an example",
    ),
    LeftOut.TRAINING: ("trained the model", "trained the model"),
    LeftOut.TRAINING_GROUP: (
        "is of the same group as a row that trained the model",
        "are of the same group as a row that trained the model",
    ),
    LeftOut.VALIDATION: (
        "was used to choose or calibrate the model",
        "were used to choose or calibrate the model",
    ),
    LeftOut.TUNING: (
        "was used to choose the words of the task",
        "were used to choose the words of the task",
    ),
    LeftOut.CALIBRATION: ("was used to fit the calibration", "were used to fit the calibration"),
    LeftOut.CONFIDENCE: (
        "was used to fit the calibration, which changes no answer",
        "were used to fit the calibration, which changes no answer",
    ),
    LeftOut.REVIEW: (
        "was reviewed because its answer was doubtful, and says nothing about the others",
        "were reviewed because their answers were doubtful, and say nothing about the others",
    ),
    LeftOut.AUDIT: (
        "was drawn for an audit, which weighs it",
        "were drawn for an audit, which weighs them",
    ),
}
_CHOSEN = frozenset({LeftOut.REVIEW, LeftOut.AUDIT})  # by their answers


def format_metric(metric: Metric) -> str:
    """ "0.913 (0.884-0.936, n = 420)": a metric with its interval and rows."""
    interval = "" if metric.low is None else f"{metric.interval_text}, "
    return f"{metric.value:.3f} ({interval}n = {metric.n:,})"


def format_metric_cell(metric: Metric | None) -> TableCell:
    """A table cell with the interval below the value; a dash for None."""
    return (f"{metric.value:.3f}", metric.interval_text) if metric else MISSING


def format_difference(difference: Metric) -> str:
    """ "0.031 (-0.004 to 0.066)": a difference of two metrics."""
    if difference.low is None or difference.high is None:
        return f"{difference.value:.3f}"
    return f"{difference.value:.3f} ({difference.low:.3f} to {difference.high:.3f})"


def format_p_value(p: float) -> str:
    """ "p = 0.012", or "p < 0.001"."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def format_manifest_value(value: object) -> str:
    """One value of a manifest as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return shorten(str(value), MAX_VALUE_CHARACTERS)


def format_value(value: object) -> str:
    """An answer or gold value of any kind: names joined by "; ", fields line by line."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "; ".join(value) or "none applies"
    if isinstance(value, Mapping):
        return "\n".join(
            f"{'.'.join(path)}: {format_field_value(leaf)}" for path, leaf in flatten(value).items()
        )
    return str(value)


def format_field_value(leaf: object) -> str:
    """The value of one field; a dash for an empty one."""
    if leaf is None or leaf == "" or leaf == []:
        return MISSING
    if isinstance(leaf, str):
        return leaf
    if isinstance(leaf, list) and not any(isinstance(item, list | Mapping) for item in leaf):
        return "; ".join(map(format_field_value, leaf))
    return json.dumps(leaf, ensure_ascii=False)


def find_manifest_value(manifest: Mapping[str, object], *path: str) -> Any:
    """The value at a path of keys in a manifest; None if it is missing."""
    found: object = manifest
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def count_left_out(reasons: Iterable[LeftOut]) -> dict[LeftOut, int]:
    """The number of rows by reason, in the order of `LeftOut`."""
    counts = Counter(reasons)
    return {reason: counts[reason] for reason in LeftOut if counts[reason]}


def format_left_out(counts: Mapping[LeftOut, int]) -> str:
    """Why rows are left out, such as "4 rows are examples in the prompt, 9 rows trained ..."."""
    return ", ".join(
        f"{format_row_count(rows)} {_LEFT_OUT_PHRASES[reason][rows != 1]}"
        for reason, rows in counts.items()
    )


def describe_left_out(counts: Mapping[LeftOut, int], measured: int) -> list[str]:
    """Sentences on the rows with gold that are left out.

    Args:
        counts: Rows by reason.
        measured: The number of rows that metrics are based on.
    """
    answers: dict[LeftOut, int] = {
        reason: n for reason, n in counts.items() if reason is not LeftOut.CONFIDENCE
    }
    sentences = [f"left out of the metrics: {format_left_out(answers)}"] if answers else []
    if fitted := counts.get(LeftOut.CONFIDENCE):
        sentences.append(
            f"left out of the figures on confidence: {format_row_count(fitted)} "
            f"{_LEFT_OUT_PHRASES[LeftOut.CONFIDENCE][fitted != 1]}"
        )
    if answers and not measured:
        sentences.append(f"no metrics: {explain_no_rows(answers)} - {suggest_unseen_rows(answers)}")
    return sentences


def explain_no_rows(
    reasons: Collection[LeftOut], otherwise: str = "no row with gold is new to the model"
) -> str:
    """Why no row with gold counts, if all are left out for some of these reasons."""
    is_chosen = reasons and _CHOSEN.issuperset(reasons)
    return "all rows with gold were chosen by their answers" if is_chosen else otherwise


def suggest_unseen_rows(
    counts: Mapping[LeftOut, int], first: str = "use other rows with gold"
) -> str:
    """How to measure rows that are new to the model; ``counts`` are the rows that are not."""
    ways = [first]
    if _CHOSEN & counts.keys():
        ways.append("label a random sample with `medtask audit RUN`, which estimates the accuracy")
    if counts.keys() & {LeftOut.TRAINING, LeftOut.TRAINING_GROUP, LeftOut.VALIDATION}:
        ways.append(
            "let models that have not seen a row answer it, with `medtask train TASK DATA "
            "--folds 5`"
        )
    if LeftOut.CALIBRATION in counts:
        ways.append("run again with --uncalibrated")
    if LeftOut.EXAMPLE in counts:
        ways.append("take the examples from another table")
    return ", or ".join(ways)
