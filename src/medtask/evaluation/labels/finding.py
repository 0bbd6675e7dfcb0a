"""One thing that was found about a set of labels."""

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
    """``seen``: what was seen, in one sentence with its numbers. ``advice``: what to do about it.

    ``weight``: "act" costs right answers as far as can be measured; "look" may, and a person has to
    judge; "note" is good to know. ``score`` orders findings of one topic, the greatest first.
    ``figures``: the numbers of ``seen`` by name; estimates are mappings with value, n, low and
    high.
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
