"""Limits simultaneous calls to a server, delays between attempts, and consecutive failures.

The limit grows by one per round of successes and halves when the server is overloaded, like TCP's
congestion window (RFC 5681). Delays grow exponentially with full jitter (M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from medtask.errors import EngineError

MAX_DELAY_S = 60.0
MAX_WAIT_S = 600.0  # a server that requests a longer delay has no quota left today
MAX_FAILURES = 20
_FIRST_DELAY_S = 0.5
_FAILURES_TO_PAUSE = 5
_FAILING_CALLS = 3


@dataclass(frozen=True, slots=True)
class AsyncClock:
    """A monotonic clock and a sleep function, which tests replace."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


class ConcurrencyLimiter:
    """The limit for all calls to one server; used in a single event loop."""

    def __init__(self, max_limit: int, *, seed: int, clock: AsyncClock) -> None:
        self._max_limit = max_limit
        self._limit = float(max_limit)
        self._in_flight = 0
        self._paused_until = clock.now()
        self._reduced_at = clock.now()
        self._failed_at = clock.now()
        self._failures = 0  # in a row, over all calls
        self._failing: set[int] = set()  # the calls that failed since the last success
        self._released = anyio.Event()
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - spreads calls over time, keeps no secret

    @property
    def limit(self) -> int:
        """The current maximum number of simultaneous calls."""
        return max(1, int(self._limit))

    async def acquire(self) -> float:
        """Wait for the end of a pause and for a free slot, take it, and return the time."""
        while True:
            wait_s = self._paused_until - self._clock.now()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            elif self._in_flight < self.limit:
                self._in_flight += 1
                return self._clock.now()
            else:
                await self._released.wait()

    def release(self) -> None:
        self._in_flight -= 1
        released, self._released = self._released, anyio.Event()
        released.set()

    @property
    def is_server_failing(self) -> bool:
        """Whether several calls have failed and none has succeeded since."""
        return len(self._failing) >= _FAILING_CALLS

    def record_success(self) -> None:
        self._failures = 0
        self._failing.clear()
        self._limit = min(self._max_limit, self._limit + 1 / self._limit)

    def reduce_limit(self, started_at: float) -> None:
        """Halve the limit, because a call that began at ``started_at`` met an overload."""
        if started_at >= self._reduced_at:  # simultaneous calls report one overload
            self._limit = max(1.0, self._limit / 2)
            self._reduced_at = self._clock.now()

    def pause(self, wait_s: float) -> None:
        """Start no call for ``wait_s`` seconds; EngineError if that is too long."""
        if wait_s > MAX_WAIT_S:
            raise EngineError(
                f"the server asks to wait {wait_s:,.0f} seconds",
                fix="run the same command again when that time is over: nothing is asked twice",
            )
        self._paused_until = max(self._paused_until, self._clock.now() + wait_s)

    def record_failure(self, call: int, started_at: float, reason: str) -> None:
        """Count a consecutive failure of a call whose attempt began at ``started_at``.

        ``call`` tells current calls apart. After a few failures, the limit is one call.
        Simultaneous calls count once. EngineError after too many failures.
        """
        self._failing.add(call)
        if started_at < self._failed_at:
            return
        self._failed_at = self._clock.now()
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise EngineError(
                f"{MAX_FAILURES} consecutive calls to the server failed; the last one: {reason}",
                fix=(
                    "check that the server works, then run the same command again: nothing is "
                    "asked twice"
                ),
            )
        if self._failures >= _FAILURES_TO_PAUSE:
            self._limit = 1.0
            self.pause(self.draw_delay_s(self._failures - _FAILURES_TO_PAUSE))

    def draw_delay_s(self, failed_attempts: int) -> float:
        """Draw the delay in seconds before the attempt after ``failed_attempts`` others."""
        return self._random.uniform(
            0, min(MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(failed_attempts, 30))
        )
