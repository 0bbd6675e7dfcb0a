"""The time that a search has, and the exception that ends it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medtask.errors import UsageError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SearchStopped(BaseException):
    """Ends a search; the best candidate so far is its result.

    A BaseException, because libraries catch every Exception of a candidate and continue.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class SearchBudget:
    """A time budget in seconds that starts when the object is created.

    ``reserved_s`` seconds of it are for what comes after the search.
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
        """The seconds that are left for the search; negative once they are used up."""
        return self.budget_s - self.reserved_s - self.elapsed_s()

    @contextmanager
    def limit_to_share(self, part: float) -> Iterator[None]:
        """Within the block, only this share of the remaining time may be used."""
        kept = max(0.0, self.remaining_s()) * (1 - part)
        self.reserved_s += kept
        try:
            yield
        finally:
            self.reserved_s -= kept

    def check_time_left(self, seconds: float = 0.0) -> None:
        """Raise SearchStopped where less time is left."""
        if self.remaining_s() < seconds or self.remaining_s() <= 0:
            raise SearchStopped("the budget is used up")


def parse_duration(text: str) -> float:
    """Seconds in "90s", "20m", "1.5h", "2h30m" or "1d". Raises UsageError for anything else."""
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
