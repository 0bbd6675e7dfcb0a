"""One finding about a set of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medtask.display import format_percent
from medtask.evaluation.statistics.intervals import Metric

Severity = Literal["act", "look", "note"]
SEVERITIES: tuple[Severity, ...] = ("act", "look", "note")


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """One finding.

    Attributes:
        topic: The topic; see `TOPIC_TITLES`.
        weight: "act" if it costs right answers, "look" if it may cost some, "note" for information.
        labels: The labels concerned.
        seen: The observation in one sentence with its numbers.
        advice: The recommended action.
        figures: The numbers by name; metrics are mappings.
        score: Sort key within a topic, descending.
    """

    topic: str
    weight: Severity
    labels: tuple[str, ...]
    seen: str
    advice: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    score: float = 0.0


def format_share(share: Metric) -> str:
    """ "12.5 %, 8.0-18.9 %": a share of rows and its interval."""
    low, high = share.low or 0.0, share.high or 0.0
    return f"{format_percent(share.value)}, {100 * low:.1f}-{100 * high:.1f} %"
