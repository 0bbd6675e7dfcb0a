"""Rates of requests: a bucket of permits for each user, key or address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from medtask.server.problems import TooManyRequests

_MAX_BUCKETS = 10_000
# A client may send the requests of some seconds at once.
_BURST_SHARE = 1 / 6


class RateLimiter:
    """Token buckets. Those that were used least recently are forgotten beyond a number.

    Args:
        per_minute: Permits that a bucket gains in a minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_second = per_minute / 60
        self._capacity = max(1.0, per_minute * _BURST_SHARE)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, owner: str) -> None:
        """Take a permit.

        Raises:
            TooManyRequests: The bucket is empty.
        """
        now = time.monotonic()
        with self._lock:
            permits, updated = self._buckets.pop(owner, (self._capacity, now))
            permits = min(self._capacity, permits + (now - updated) * self._per_second)
            allowed = permits >= 1
            self._buckets[owner] = (permits - allowed, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        if not allowed:
            seconds = max(1, round((1 - permits) / self._per_second))
            raise TooManyRequests(
                "too many requests", fix=f"wait {seconds} s", retry_after_s=seconds
            )
