"""The time that is left, shown only when it is known to a factor of 2."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import sqrt

MIN_SECONDS = 3.0
MIN_UPDATES = 3
MAX_FACTOR = 2.0
_MAX_POINTS = 2_000


class RemainingTime:
    """Estimates the time left from the speed of the whole time and that of its second half.

    If these differ by more than a factor of 2, the time left is not known, and neither is it while
    nothing happens: the second half then has no progress.
    """

    def __init__(self, total: float, done: float, now: float) -> None:
        self._total = total
        self._points: list[tuple[float, float]] = [(now, done)]  # times and completed units

    def add(self, done: float, now: float) -> None:
        """Record the number of completed units at a time."""
        self._points.append((now, done))
        if len(self._points) > _MAX_POINTS:
            del self._points[1::2]

    def estimate(self, now: float) -> float | None:
        """The seconds left; None if they are not known to a factor of 2."""
        started, before = self._points[0]
        last, done = self._points[-1]
        elapsed = now - started
        if done >= self._total or len(self._points) <= MIN_UPDATES or elapsed < MIN_SECONDS:
            return None
        middle = bisect_left(self._points, (started + elapsed / 2,))
        then, done_then = self._points[min(middle, len(self._points) - 1)]
        overall = (done - before) / elapsed
        recent = (done - done_then) / (now - then) if then < last else 0.0
        if not 0 < max(overall, recent) <= MAX_FACTOR * min(overall, recent):
            return None
        return (self._total - done) / sqrt(overall * recent)


class SteadyEstimate:
    """Passes an estimate of the time left on if the total time that it implies is steady."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._totals: deque[tuple[float, float]] = deque()  # times, and total times as estimated

    def check(self, left: float | None, now: float) -> float | None:
        """The estimate, or None if those of the second half of the time differ by a factor of 2."""
        elapsed = now - self._started
        if left is None:
            return None
        self._totals.append((now, elapsed + left))
        while self._totals and self._totals[0][0] < self._started + elapsed / 2:
            self._totals.popleft()
        totals = [total for _, total in self._totals]
        if elapsed < MIN_SECONDS or len(totals) < MIN_UPDATES:
            return None
        return left if max(totals) <= MAX_FACTOR * min(totals) else None
