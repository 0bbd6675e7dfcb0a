"""The time budget of a search, and the exception that ends it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medtask.errors import UsageError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SearchStopped(BaseException):
    """Ends a search; its result is the best candidate so far.

    A BaseException, because libraries catch every Exception raised by a candidate and continue.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class SearchBudget:
    """A time budget in seconds, which starts when the object is created.

    ``reserved_s`` seconds are reserved for the steps after the search.
    """

    budget_s: float
    now: Callable[[], float] = time.monotonic
    reserved_s: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    def elapsed_s(self) -> float:
        """The seconds since the start."""
        return self.now() - self.started

    def remaining_s(self) -> float:
        """The seconds left for the search; negative if they are used up."""
        return self.budget_s - self.reserved_s - self.elapsed_s()

    @contextmanager
    def limit_to_share(self, part: float) -> Iterator[None]:
        """Within the block, limit the search to this share of the remaining time."""
        kept = max(0.0, self.remaining_s()) * (1 - part)
        self.reserved_s += kept
        try:
            yield
        finally:
            self.reserved_s -= kept

    def check_time_left(self, seconds: float = 0.0) -> None:
        """Raise SearchStopped if less time is left."""
        if self.remaining_s() < seconds or self.remaining_s() <= 0:
            raise SearchStopped("the budget is used up")


def parse_duration(text: str) -> float:
    """Parse seconds from "90s", "20m", "1.5h", "2h30m" or "1d". Raises UsageError otherwise."""
    compact = text.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise UsageError(f"{text!r} is not a valid duration", fix="write it like 90s, 20m or 2h")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UsageError(
            "the budget of a search must be above 0", fix="write --budget like 90s, 20m or 2h"
        )
    return seconds
