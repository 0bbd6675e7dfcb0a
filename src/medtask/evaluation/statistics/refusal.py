"""What is said in place of a number that the rows at hand do not support."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no result. ``rows``: those that there were; ``needed``: about how many it would
    take, None where no number of rows is known to do.
    """

    reason: str
    rows: int
    needed: int | None = None

    @property
    def missing(self) -> int | None:
        """How many more rows it would take."""
        return None if self.needed is None else max(0, self.needed - self.rows)

    def __str__(self) -> str:
        more = self.missing
        return f"{self.reason} (about {more:,} more gold rows would do)" if more else self.reason

    def to_json(self) -> dict[str, object]:
        return {"refused": self.reason, "rows": self.rows, "needed": self.needed}
