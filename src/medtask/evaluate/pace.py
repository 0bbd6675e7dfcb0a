"""How fast rows were answered along the table, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPANS = 40


@dataclass(frozen=True, slots=True)
class Span:
    """``rows`` neighbouring rows from ``first`` on (from 1), and the milliseconds that they
    took.
    """

    first: int
    rows: int
    ms: float

    @property
    def rate(self) -> float | None:
        """Rows a second; None where they took no time."""
        return 1000 * self.rows / self.ms if self.ms > 0 else None

    def to_json(self) -> Mapping[str, object]:
        return {"first": self.first, "rows": self.rows, "rows_per_s": self.rate}


@dataclass(slots=True)
class PaceGatherer:
    """Adds up the time of rows by spans of neighbouring rows; spans get longer as the table does.
    The order of calls is free.
    """

    span: int = 16
    _sums: dict[int, list[float]] = field(default_factory=dict)

    def add(self, row: int, ms: float) -> None:
        """``row`` from 1; ``ms``: its share of the time, 0 where it cost none (it repeats an
        earlier one, say).
        """
        sums = self._sums.setdefault((row - 1) // self.span, [0, 0.0])
        sums[0] += 1
        sums[1] += ms
        if len(self._sums) > 2 * SPANS:
            self._merge()

    def finish(self) -> tuple[Span, ...]:
        """The spans in the order of rows; nothing where no row tells its time."""
        while len(self._sums) > SPANS:
            self._merge()
        if not any(ms for _, ms in self._sums.values()):
            return ()
        return tuple(
            Span(place * self.span + 1, int(rows), ms)
            for place, (rows, ms) in sorted(self._sums.items())
        )

    def _merge(self) -> None:
        merged: dict[int, list[float]] = {}
        for place, (rows, ms) in self._sums.items():
            sums = merged.setdefault(place // 2, [0, 0.0])
            sums[0] += rows
            sums[1] += ms
        self.span, self._sums = 2 * self.span, merged
