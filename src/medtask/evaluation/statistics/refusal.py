"""The reason why a result cannot be computed."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.display import format_count


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the rows do not support a result.

    Attributes:
        reason: The reason.
        rows: Number of available rows.
        needed: Approximate number of rows that would be enough; None if unknown.
        grouped: Whether these are one row of each group.
    """

    reason: str
    rows: int
    needed: int | None = None
    grouped: bool = False

    @property
    def missing(self) -> int | None:
        """Number of additional rows that would be enough."""
        return None if self.needed is None else max(0, self.needed - self.rows)

    def __str__(self) -> str:
        notes = []
        if self.grouped:
            notes.append("one gold row of each group counts")
        if more := self.missing:
            unit = ("group with gold", "groups with gold") if self.grouped else ("gold row",)
            number, _, noun = format_count(more, *unit).partition(" ")
            notes.append(f"about {number} more {noun} would be enough")
        return f"{self.reason} ({'; '.join(notes)})" if notes else self.reason

    def to_json(self) -> dict[str, object]:
        return {"refused": self.reason, "rows": self.rows, "needed": self.needed}
