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

from medtask.cli import show

LINE_SECONDS = 10.0


class Follower:
    """Follows something long in silence. ``title`` is the model's; whoever loads it fills it in."""

    def __init__(self) -> None:
        self.title = ""

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


class Teller(Follower):
    """Tells on standard error what is loaded, and what people should know."""

    def on_load(self, model: str) -> None:
        show.say(f"Loading {model}", stderr=True)

    def on_note(self, text: str) -> None:
        show.say(("note: ", "yellow"), text, stderr=True)


class Bar:
    """A bar on standard error, so wide in characters, with facts behind it."""

    def __init__(self, width: int = 44) -> None:
        columns = BarColumn(bar_width=width), TextColumn("{task.fields[facts]}", markup=False)
        # What others print to standard error meanwhile appears above the bar.
        self._progress = Progress(
            *columns, console=show.console(stderr=True), redirect_stdout=False
        )
        self._task = TaskID(0)

    def start(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("", total=total, completed=done, facts="")
        self._progress.start()

    def move(self, done: int, facts: str) -> None:
        self._progress.update(self._task, completed=done, facts=facts)

    def stop(self) -> None:
        self._progress.stop()


class Meter(Follower):
    """Follows a run in silence. ``doing``: what is done to the rows.

    ``first_answer``: seconds from the meter's making, which is the command's start, to the first
    answers on the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.doing = "Labelling"
        self.rows = 0
        self.first_answer: float | None = None
        self._made = self._since = self._until = time.monotonic()
        self._before = self._done = 0

    def on_start(self, rows: int, done: int) -> None:
        self.rows, self._before, self._done = rows, done, done
        self._since = self._until = time.monotonic()

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self._done, self._until = done, time.monotonic()
        if self.first_answer is None and done > self._before:
            self.first_answer = self._until - self._made
        self.show_pace(tokens_read, tokens_reused)

    def show_pace(self, tokens_read: int, tokens_reused: int) -> None: ...

    def rate(self) -> float:
        """Rows a second since the first was asked, loading and reporting left out; 0 before any is
        answered.
        """
        seconds = self._until - self._since
        return (self._done - self._before) / seconds if seconds > 0 else 0.0

    def describe(self, tokens_read: int, tokens_reused: int) -> str:
        """ "74 %   17.1 rows/s   91 % of tokens reused   6:02 left"."""
        facts = [
            f"{self._done / max(1, self.rows):4.0%}".replace("%", " %"),
            f"{self.rate():,.1f} rows/s",
        ]
        if tokens_reused:
            facts.append(
                f"{tokens_reused / (tokens_read + tokens_reused):.0%}".replace(
                    "%", " % of tokens reused"
                )
            )
        if self._done < self.rows and self.rate():
            facts.append(f"{clock((self.rows - self._done) / self.rate())} left")
        return "   ".join(facts)


class LineMeter(Teller, Meter):
    """Follows a run in plain lines on standard error: for logs and schedulers."""

    _shown = 0.0

    def on_start(self, rows: int, done: int) -> None:
        super().on_start(rows, done)
        self._shown = self._since
        show.say(f"{self.doing} {show.count(rows, 'row')} with {self.title}", stderr=True)

    def on_finish(self) -> None:
        show.say("All rows have their answers; writing the tables and the report", stderr=True)

    def show_pace(self, tokens_read: int, tokens_reused: int) -> None:
        if self._until - self._shown >= LINE_SECONDS:
            self._shown = self._until
            show.say(
                f"{self._done:,} of {self.rows:,}   {self.describe(tokens_read, tokens_reused)}",
                stderr=True,
            )


class BarMeter(LineMeter):
    """The same on a terminal, with a bar in place of a line every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Bar()

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

    def show_pace(self, tokens_read: int, tokens_reused: int) -> None:
        self._bar.move(self._done, self.describe(tokens_read, tokens_reused))


def choose_meter(*, quiet: bool, doing: str = "Labelling") -> Meter:
    """Silent if asked to be; else what suits standard error. ``doing``: what is told to be done
    with the rows.
    """
    meter = Meter() if quiet else BarMeter() if sys.stderr.isatty() else LineMeter()
    meter.doing = doing
    return meter


def clock(seconds: float) -> str:
    """A length of time: "6:02", "1:06:02"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
