"""Progress of a session: its observers, and the time and tokens that it has needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class RunObserver(Protocol):
    """Receives the notes and progress of a session."""

    def on_note(self, text: str) -> None:
        """Receive a fact that the user should know, in one line."""

    def on_start(self, rows: int, done: int) -> None:
        """Receive the number of rows, and of those answered by earlier sessions."""

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        """Receive the number of rows with committed answers, and this session's token counts."""

    def on_finish(self) -> None:
        """Called when all rows are answered, before tables and report are written."""

    def on_baseline(self, method: str, done: int, rows: int) -> None:
        """Receive the number of rows that a simple method has done, of the rows with gold."""


class NullRunObserver:
    """An observer that does nothing."""

    def on_note(self, text: str) -> None: ...
    def on_start(self, rows: int, done: int) -> None: ...
    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None: ...
    def on_finish(self) -> None: ...
    def on_baseline(self, method: str, done: int, rows: int) -> None: ...


@dataclass(slots=True)
class SessionCost:
    """The time and tokens of one session.

    Attributes:
        rows: Rows answered, including copies of earlier answers and faults.
        cached_rows: Those that were answered by earlier runs.
        tokens_read: Tokens that the models processed.
        tokens_reused: Tokens taken from a cache.
        seconds: Time for answering, excluding model loading and writing of tables.
        first_answer_s: Seconds from the session's start until the first answers were on disk.
    """

    rows: int = 0
    cached_rows: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    seconds: float = 0.0
    first_answer_s: float | None = None

    @property
    def rows_per_s(self) -> float:
        return (self.rows - self.cached_rows) / self.seconds if self.seconds else 0.0
