"""The reason why a result cannot be computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the rows do not support a result.

    Attributes:
        reason: The reason.
        rows: Number of available rows.
        needed: Approximate number of rows that would be enough; None if unknown.
    """

    reason: str
    rows: int
    needed: int | None = None

    @property
    def missing(self) -> int | None:
        """Number of additional rows that would be enough."""
        return None if self.needed is None else max(0, self.needed - self.rows)

    def __str__(self) -> str:
        more = self.missing
        return (
            f"{self.reason} (about {more:,} more gold rows would be enough)"
            if more
            else self.reason
        )

    def to_json(self) -> dict[str, object]:
        return {"refused": self.reason, "rows": self.rows, "needed": self.needed}
