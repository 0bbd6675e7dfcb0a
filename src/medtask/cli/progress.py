"""How a run is followed: a bar on a terminal, a line every ten seconds elsewhere, and the times
that a script wants.

What the meters of runs and of trainings have in common: Follower, Teller, Bar, clock.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from medtask.cli import console as show
from medtask.display import format_clock, format_count

LINE_INTERVAL_S = 10.0


class ProgressDisplay:
    """Follows something long in silence. ``model_title`` is the model's; whoever loads it fills
    it in.
    """

    def __init__(self) -> None:
        self.model_title = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def on_load(self, model: str) -> None: ...

    def on_note(self, text: str) -> None: ...

    def on_finish(self) -> None: ...


class ProgressPrinter(ProgressDisplay):
    """Tells on standard error what is loaded, and what people should know."""

    def on_load(self, model: str) -> None:
        show.print_line(f"Loading {model}", stderr=True)

    def on_note(self, text: str) -> None:
        show.print_line(("note: ", "yellow"), text, stderr=True)


class ProgressBar:
    """A bar on standard error, so wide in characters, with facts behind it."""

    def __init__(self, width: int = 44) -> None:
        columns = BarColumn(bar_width=width), TextColumn("{task.fields[facts]}", markup=False)
        # What others print to standard error meanwhile appears above the bar.
        self._progress = Progress(
            *columns, console=show.make_console(stderr=True), redirect_stdout=False
        )
        self._task = TaskID(0)

    def start(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("", total=total, completed=done, facts="")
        self._progress.start()

    def update(self, done: int, facts: str) -> None:
        self._progress.update(self._task, completed=done, facts=facts)

    def stop(self) -> None:
        self._progress.stop()


class RunProgressDisplay(ProgressDisplay):
    """Follows a run in silence. ``activity``: what is done to the rows.

    ``first_answer_s``: seconds from the meter's making, which is the command's start, to the first
    answers on the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activity = "Labelling"
        self.rows = 0
        self.first_answer_s: float | None = None
        self._created_at = self._started_at = self._updated_at = time.monotonic()
        self._rows_before = self._rows_done = 0

    def on_start(self, rows: int, done: int) -> None:
        self.rows, self._rows_before, self._rows_done = rows, done, done
        self._started_at = self._updated_at = time.monotonic()

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self._rows_done, self._updated_at = done, time.monotonic()
        if self.first_answer_s is None and done > self._rows_before:
            self.first_answer_s = self._updated_at - self._created_at
        self.show_progress(tokens_read, tokens_reused)

    def show_progress(self, tokens_read: int, tokens_reused: int) -> None: ...

    def rows_per_second(self) -> float:
        """Rows a second since the first was asked, loading and reporting left out; 0 before any is
        answered.
        """
        seconds = self._updated_at - self._started_at
        return (self._rows_done - self._rows_before) / seconds if seconds > 0 else 0.0

    def describe(self, tokens_read: int, tokens_reused: int) -> str:
        """ "74 %   17.1 rows/s   91 % of tokens reused   6:02 left"."""
        facts = [
            f"{self._rows_done / max(1, self.rows):4.0%}".replace("%", " %"),
            f"{self.rows_per_second():,.1f} rows/s",
        ]
        if tokens_reused:
            facts.append(
                f"{tokens_reused / (tokens_read + tokens_reused):.0%}".replace(
                    "%", " % of tokens reused"
                )
            )
        if self._rows_done < self.rows and self.rows_per_second():
            facts.append(
                f"{format_clock((self.rows - self._rows_done) / self.rows_per_second())} left"
            )
        return "   ".join(facts)


class RunProgressLines(ProgressPrinter, RunProgressDisplay):
    """Follows a run in plain lines on standard error: for logs and schedulers."""

    _printed_at = 0.0

    def on_start(self, rows: int, done: int) -> None:
        super().on_start(rows, done)
        self._printed_at = self._started_at
        show.print_line(
            f"{self.activity} {format_count(rows, 'row')} with {self.model_title}", stderr=True
        )

    def on_finish(self) -> None:
        show.print_line(
            "All rows have their answers; writing the tables and the report", stderr=True
        )

    def show_progress(self, tokens_read: int, tokens_reused: int) -> None:
        if self._updated_at - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = self._updated_at
            show.print_line(
                f"{self._rows_done:,} of {self.rows:,}   "
                f"{self.describe(tokens_read, tokens_reused)}",
                stderr=True,
            )


class RunProgressBar(RunProgressLines):
    """The same on a terminal, with a bar in place of a line every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = ProgressBar()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def on_start(self, rows: int, done: int) -> None:
        super().on_start(rows, done)
        self._bar.start(rows, done)

    def on_finish(self) -> None:
        self._bar.stop()
        super().on_finish()

    def show_progress(self, tokens_read: int, tokens_reused: int) -> None:
        self._bar.update(self._rows_done, self.describe(tokens_read, tokens_reused))


def make_run_display(*, quiet: bool, activity: str = "Labelling") -> RunProgressDisplay:
    """Silent if asked to be; else what suits standard error. ``activity``: what is told to be done
    with the rows.
    """
    display = (
        RunProgressDisplay()
        if quiet
        else RunProgressBar()
        if sys.stderr.isatty()
        else RunProgressLines()
    )
    display.activity = activity
    return display
