"""Speed along the table, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_SPANS = 40


@dataclass(frozen=True, slots=True)
class ThroughputSpan:
    """``rows`` consecutive rows starting at ``first`` (from 1), and the milliseconds they took."""

    first: int
    rows: int
    ms: float

    @property
    def rows_per_s(self) -> float | None:
        """Rows per second; None if they took no time."""
        return 1000 * self.rows / self.ms if self.ms > 0 else None

    def to_json(self) -> Mapping[str, object]:
        return {"first": self.first, "rows": self.rows, "rows_per_s": self.rows_per_s}


@dataclass(slots=True)
class ThroughputAccumulator:
    """Sums the time of rows by spans that grow with the table; rows may arrive in any order."""

    span_rows: int = 16
    _sums: dict[int, list[float]] = field(default_factory=dict)

    def add(self, row: int, ms: float) -> None:
        """Adds a row (from 1); ``ms`` is its share of the time, 0 for a repeated row."""
        sums = self._sums.setdefault((row - 1) // self.span_rows, [0, 0.0])
        sums[0] += 1
        sums[1] += ms
        if len(self._sums) > 2 * MAX_SPANS:
            self._merge_spans()

    def finish(self) -> tuple[ThroughputSpan, ...]:
        """The spans in order; empty if no row has a time."""
        while len(self._sums) > MAX_SPANS:
            self._merge_spans()
        if not any(ms for _, ms in self._sums.values()):
            return ()
        return tuple(
            ThroughputSpan(place * self.span_rows + 1, int(rows), ms)
            for place, (rows, ms) in sorted(self._sums.items())
        )

    def _merge_spans(self) -> None:
        merged: dict[int, list[float]] = {}
        for place, (rows, ms) in self._sums.items():
            sums = merged.setdefault(place // 2, [0, 0.0])
            sums[0] += rows
            sums[1] += ms
        self.span_rows, self._sums = 2 * self.span_rows, merged
