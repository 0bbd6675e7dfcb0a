from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from medtask.evaluation.statistics.throughput import MAX_SPANS, ThroughputAccumulator


@given(st.integers(1, 5000), st.integers(0, 99))
def test_spans_hold_every_row_and_all_the_time_in_any_order(rows: int, seed: int) -> None:
    order = list(range(1, rows + 1))
    random.Random(seed).shuffle(order)
    gatherer = ThroughputAccumulator()
    for row in order:
        gatherer.add(row, float(row % 7))
    spans = gatherer.finish()
    times = [row % 7 for row in range(1, rows + 1)]
    assert sum(span.rows for span in spans) == (rows if any(times) else 0)
    assert sum(span.ms for span in spans) == sum(times)
    assert len(spans) <= MAX_SPANS
    for span, after in pairwise(spans):
        assert span.first + span.rows == after.first
        assert span.ms == sum(times[span.first - 1 : after.first - 1])


def test_rows_that_took_no_time_have_no_rate() -> None:
    gatherer = ThroughputAccumulator(span_rows=2)
    for row, ms in enumerate((5.0, 5.0, 0.0, 0.0), 1):
        gatherer.add(row, ms)
    assert [span.rows_per_s for span in gatherer.finish()] == [200.0, None]
    assert ThroughputAccumulator().finish() == ()
