"""A clock of the HTTP client for tests that do not wait."""

from __future__ import annotations

import time

import anyio

from medtask.engines.http.concurrency import AsyncClock


class SkippingClock:
    """Sleeping takes no time, but time has passed behind it; ``sleeps`` is what was waited for."""

    def __init__(self) -> None:
        self.skipped_s, self.sleeps = 0.0, list[float]()

    def make_clock(self) -> AsyncClock:
        return AsyncClock(now=lambda: time.monotonic() + self.skipped_s, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.skipped_s += seconds
        await anyio.sleep(0)
