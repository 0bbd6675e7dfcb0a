"""Formats metrics, answers and manifest values for reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medtask.display import shorten
from medtask.evaluation.presentation.blocks import TableCell
from medtask.evaluation.statistics.extraction import flatten
from medtask.evaluation.statistics.intervals import Metric

MAX_VALUE_CHARACTERS = 2000  # maximum characters of one value of the manifest
MISSING = "–"


def format_metric(metric: Metric) -> str:
    """ "0.913 (0.884-0.936, n = 420)": a metric with its interval and rows."""
    interval = "" if metric.low is None else f"{metric.low:.3f}-{metric.high:.3f}, "
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
