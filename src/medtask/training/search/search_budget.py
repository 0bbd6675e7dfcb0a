"""How much time a search has, and what ends it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medtask.errors import UsageError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SearchStopped(BaseException):
    """A search ends here, and its best so far counts. No Exception, so that libraries which survive
    errors of all kinds do not survive this one. ``reason``: for people.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class SearchBudget:
    """``budget_s`` seconds from its making on, of which ``reserved_s`` are for what comes after the
    search.
    """

    budget_s: float
    now: Callable[[], float] = time.monotonic
    reserved_s: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    def elapsed_s(self) -> float:
        return self.now() - self.started

    def remaining_s(self) -> float:
        """Seconds that the search still has; below 0 once they are used up."""
        return self.budget_s - self.reserved_s - self.elapsed_s()

    @contextmanager
    def limit_to_share(self, part: float) -> Iterator[None]:
        """In the block, only this part of what is left may be used."""
        kept = max(0.0, self.remaining_s()) * (1 - part)
        self.reserved_s += kept
        try:
            yield
        finally:
            self.reserved_s -= kept

    def check_time_left(self, seconds: float = 0.0) -> None:
        """Halt where so much time is not left."""
        if self.remaining_s() < seconds or self.remaining_s() <= 0:
            raise SearchStopped("the budget is used up")


def parse_duration(text: str) -> float:
    """Seconds in "90s", "20m", "1.5h", "2h30m" or "1d"; UsageError for anything else, and for none
    at all.
    """
    search_data = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.replace(" ", "").lower())
    if (
        not search_data
        or "".join(number + unit for number, unit in search_data) != text.replace(" ", "").lower()
    ):
        raise UsageError(f"{text!r} is not a length of time", fix="write it like 90s, 20m or 2h")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in search_data)
    if seconds <= 0:
        raise UsageError("a search needs some time", fix="write --budget like 90s, 20m or 2h")
    return seconds
