"""Rows that a person should see, and the best few of any number of things in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import Generic, TypeVar

from medtask.records import Answer, Status

UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff]")  # controls, overrides of the direction, lone surrogates

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """One row with its text (600 characters of it) and its five likeliest labels, the likeliest first."""

    row: int
    record_id: str
    status: Status
    value: str | None
    confidence: float | None
    text: str
    top: tuple[tuple[str, float], ...]
    reason: str | None
    gold: str | None

    def locate(self) -> dict[str, object]:
        """Which row it is, without its text."""
        return {"row": self.row, "id": self.record_id, "status": str(self.status), "confidence": self.confidence}


def describe_case(row: int, answer: Answer, text: str, gold: str | None) -> Case:
    likeliest = sorted((answer.probabilities or {}).items(), key=lambda item: -item[1])[:5]
    return Case(
        row=row,
        record_id=answer.record_id,
        status=answer.status,
        value=answer.value,
        confidence=answer.confidence,
        text=cut_text(text, 600),
        top=tuple(likeliest),
        reason=answer.reason,
        gold=cut_text(gold, 80) if gold else None,
    )


def cut_text(text: str, limit: int) -> str:
    """The text's first ``limit`` characters, with U+FFFD for every one that a page cannot show, or not honestly."""
    text = text.strip()
    return UNSHOWABLE.sub("\ufffd", text if len(text) <= limit else text[:limit].rstrip() + " …")


class Shortlist(Generic[T]):
    """The ``size`` things with the largest keys, whatever the order in which they come; keys must differ."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[tuple[float, ...], T]] = []

    def offer(self, key: tuple[float, ...], make: Callable[[], T]) -> None:
        """``make`` is called only if the thing is kept."""
        if len(self._kept) < self._size:
            heappush(self._kept, (key, make()))
        elif key > self._kept[0][0]:
            heappushpop(self._kept, (key, make()))

    def ranked(self) -> tuple[T, ...]:
        """What is kept, the largest key first."""
        return tuple(thing for _, thing in sorted(self._kept, key=lambda kept: kept[0], reverse=True))
