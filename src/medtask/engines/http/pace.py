"""How fast a server is asked: places that grow and shrink, pauses that it asks for, and when to
stop asking at all.

Places grow by one per round of successes and halve when the server is overloaded, as TCP's
congestion window does (RFC 5681). Delays grow exponentially with full jitter (M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from medtask.errors import EngineError

LONGEST_DELAY_S = 60.0
LONGEST_WAIT_S = 600.0  # a server that asks for more has no quota left today
FAILURES_TO_STOP = 20
_FIRST_DELAY_S = 0.5
_FAILURES_TO_HOLD = 5


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the engine sees it: seconds that only grow, and a way to let them pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


class Pace:
    """One for all calls to a server. Lives in one event loop."""

    def __init__(self, places: int, *, seed: int, clock: Clock) -> None:
        self._most = places
        self._places = float(places)
        self._taken = 0
        self._held_until = clock.now()
        self._halved_at = clock.now()
        self._failed_at = clock.now()
        self._failures = 0  # in a row, over all calls
        self._freed = anyio.Event()
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - spreads calls over time, keeps no secret

    @property
    def places(self) -> int:
        """How many calls may be under way at once, as things are."""
        return max(1, int(self._places))

    async def enter(self) -> float:
        """Wait until nothing holds the calls and a place is free, and take it; the time at which
        that was.
        """
        while True:
            wait_s = self._held_until - self._clock.now()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            elif self._taken < self.places:
                self._taken += 1
                return self._clock.now()
            else:
                await self._freed.wait()

    def leave(self) -> None:
        self._taken -= 1
        freed, self._freed = self._freed, anyio.Event()
        freed.set()

    def succeed(self) -> None:
        self._failures = 0
        self._places = min(self._most, self._places + 1 / self._places)

    def slow_down(self, entered: float) -> None:
        """The server is overloaded, as a call that began at ``entered`` found out: half the
        places.
        """
        if (
            entered >= self._halved_at
        ):  # calls that were under way together tell of one overload, not of many
            self._places = max(1.0, self._places / 2)
            self._halved_at = self._clock.now()

    def hold(self, wait_s: float) -> None:
        """No call begins for so many seconds. EngineError where that is too long to sit out."""
        if wait_s > LONGEST_WAIT_S:
            raise EngineError(
                f"the server asks to be left alone for {wait_s:,.0f} seconds",
                fix="run the same command again when that time is over: nothing is asked twice",
            )
        self._held_until = max(self._held_until, self._clock.now() + wait_s)

    def count_failure(self, entered: float, reason: str) -> None:
        """One more failure in a row, of a call that began at ``entered``. Some in a row: then one
        call at a time looks after the server.

        Calls that were under way together when the server went down count once, however many they
        were.
        """
        if entered < self._failed_at:
            return
        self._failed_at = self._clock.now()
        self._failures += 1
        if self._failures >= FAILURES_TO_STOP:
            raise EngineError(
                f"{FAILURES_TO_STOP} calls to the server in a row failed, "
                f"the last one so: {reason}",
                fix=(
                    "see that the server works, then run the same command again: nothing is "
                    "asked twice"
                ),
            )
        if self._failures >= _FAILURES_TO_HOLD:
            self._places = 1.0
            self.hold(self.delay(self._failures - _FAILURES_TO_HOLD))

    def delay(self, tries: int) -> float:
        """Seconds to wait before the next try, of which ``tries`` went wrong before this one."""
        return self._random.uniform(0, min(LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(tries, 30)))
