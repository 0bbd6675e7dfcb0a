"""Numbers and their intervals in reports."""

from __future__ import annotations

from medtask.evaluation.presentation.formatting import format_metric
from medtask.evaluation.statistics.intervals import Metric


def test_an_interval_that_begins_below_zero_has_no_second_minus() -> None:
    assert format_metric(Metric(0.913, 420, 0.884, 0.936)) == "0.913 (0.884-0.936, n = 420)"
    assert format_metric(Metric(0.01, 40, -0.12, 0.14)) == "0.010 (-0.120 to 0.140, n = 40)"
    assert format_metric(Metric(0.5, 1)) == "0.500 (n = 1)"
