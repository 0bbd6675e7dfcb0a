"""Progress on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from medtask.cli import console as show
from medtask.cli.remaining_time import RemainingTime
from medtask.cli.waiting import LINE_INTERVAL_S, set_activity
from medtask.display import format_clock, format_count, format_estimated_duration

if TYPE_CHECKING:
    from medtask.training.search.candidate_evaluator import SearchTrial


class _FactsColumn(ProgressColumn):
    """The facts beside a bar, as they are when it is drawn."""

    def __init__(self, get_facts: Callable[[], str]) -> None:
        super().__init__()
        self._get_facts = get_facts

    def render(self, task: Task) -> Text:
        """The facts as text."""
        return Text(self._get_facts())


class ProgressDisplay:
    """Base of the displays of runs, trainings and searches.

    Attributes:
        quiet: Whether nothing is printed.
        model_title: The name of the model; set by the code that loads it.
    """

    bar_width: int | None = None  # characters; None: also print lines on a terminal

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.model_title = ""
        self._printed_at = time.monotonic()
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)
        self._facts = ""
        if self.bar_width is not None and not quiet and sys.stderr.isatty():
            columns = BarColumn(bar_width=self.bar_width), _FactsColumn(self.get_facts)
            # Output of libraries to standard error appears above the bar.
            self._bar = Progress(
                *columns, console=show.make_console(stderr=True), redirect_stdout=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_bar()

    def on_load(self, model: str) -> None:
        self.print_line(f"Loading {model}")
        set_activity(f"Loading {model}", is_printed=True)

    def on_note(self, text: str) -> None:
        self.print_line(("note: ", "yellow"), text)

    def on_stage(self, text: str) -> None:
        self.print_line(text)
        set_activity(text, is_printed=True)

    def get_facts(self) -> str:
        """The text beside the bar."""
        return self._facts

    def on_baseline(self, method: str, done: int, rows: int) -> None:
        """Print the start of a baseline, and a line if ten seconds have passed since the last."""
        if done == 0:
            self._printed_at = time.monotonic()
            line = f"Comparing with {method} on {format_count(rows, 'row')} with gold"
            self.print_line(line)
            set_activity(line, is_printed=True)
        elif done >= rows:
            set_activity("Computing metrics and their intervals")
        elif time.monotonic() - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = time.monotonic()
            self.print_line(f"{method}: {done:,} of {rows:,} rows")

    def print_line(self, *parts: str | tuple[str, str]) -> None:
        """Print a line on standard error, unless the display is quiet."""
        if not self.quiet:
            show.print_line(*parts, stderr=True)

    def start_bar(self, total: int, done: int) -> None:
        self._printed_at = time.monotonic()
        if self._bar is not None:
            set_activity(None)
            self._bar_task = self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show_progress(self, done: int, facts: str, position: str, *, now: bool = False) -> None:
        """Update the bar, or print a line if ten seconds have passed since the last one.

        Args:
            done: Completed units, for the bar.
            facts: Text after the bar.
            position: Text before the facts of a line, such as "step 5 of 30".
            now: Print the line in any case.
        """
        self._facts = facts
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=done)
        elif now or time.monotonic() - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = time.monotonic()
            self.print_line(f"{position}   {facts}")


class RunProgressDisplay(ProgressDisplay):
    """Progress of a run.

    Attributes:
        activity: The activity, such as "Labelling".
        ending: Printed when all rows are answered.
        rows: Number of rows of the run.
        first_answer_s: Seconds from the start of the command to the first stored answers.
    """

    bar_width = 44

    def __init__(
        self,
        *,
        quiet: bool = False,
        activity: str = "Labelling",
        ending: str = "All rows are answered; writing the tables and the report",
    ) -> None:
        super().__init__(quiet=quiet)
        self.activity, self.ending = activity, ending
        self.rows = 0
        self.first_answer_s: float | None = None
        self._created_at = self._started_at = self._updated_at = time.monotonic()
        self._rows_before = self._rows_done = 0
        self._tokens_read = self._tokens_reused = 0
        self._remaining = RemainingTime(0, 0, 0.0)

    def on_start(self, rows: int, done: int) -> None:
        self.rows, self._rows_before, self._rows_done = rows, done, done
        self._started_at = self._updated_at = time.monotonic()
        self.print_line(f"{self.activity} {format_count(rows, 'row')} with {self.model_title}")
        self._remaining = RemainingTime(rows, done, self._started_at)
        if self._bar is None:
            set_activity(self._describe_position, is_printed=True)
        self.start_bar(rows, done)

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self._rows_done, self._updated_at = done, time.monotonic()
        self._tokens_read, self._tokens_reused = tokens_read, tokens_reused
        self._remaining.add(done, self._updated_at)
        if self.first_answer_s is None and done > self._rows_before:
            self.first_answer_s = self._updated_at - self._created_at
        self.show_progress(done, self.get_facts(), f"{done:,} of {self.rows:,}")

    def get_facts(self) -> str:
        """The speed and the time left, as they are at this moment."""
        return self.describe(self._tokens_read, self._tokens_reused)

    def _describe_position(self) -> str:
        position = f"{self._rows_done:,} of {self.rows:,}"
        return f"{position}   {self.get_facts()}" if self._rows_done else f"{position} answered"

    def on_finish(self) -> None:
        self.stop_bar()
        self.print_line(self.ending)
        set_activity(self.ending, is_printed=True)

    def rows_per_second(self) -> float:
        """Rows per second of this session, without loading and reporting; 0 before the first."""
        seconds = self._updated_at - self._started_at
        return (self._rows_done - self._rows_before) / seconds if seconds > 0 else 0.0

    def describe(self, tokens_read: int, tokens_reused: int) -> str:
        """ "74 %   17.1 rows/s   91 % of tokens reused   6:02 left"."""
        speed = self.rows_per_second()
        facts = [f"{100 * self._rows_done / max(1, self.rows):3.0f} %", f"{speed:,.1f} rows/s"]
        if tokens_reused:
            share = tokens_reused / (tokens_read + tokens_reused)
            facts.append(f"{100 * share:.0f} % of tokens reused")
        if (left := self._remaining.estimate(time.monotonic())) is not None:
            facts.append(f"{format_clock(left)} left")
        return "   ".join(facts)


class SearchProgressDisplay(ProgressDisplay):
    """Progress of a search: each better candidate at once, others every ten seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._best_value: float | None = None

    def on_trial(self, trial: SearchTrial) -> None:
        left = format_estimated_duration(max(0.0, trial.remaining_s))
        values = f"{trial.value:.3f}   best {trial.best:.3f}"
        # A search that finds nothing better ends before its budget does.
        facts = f"{values}   {left} of the budget left   {trial.description}"
        is_better, self._best_value = trial.best != self._best_value, trial.best
        self.show_progress(trial.number, facts, f"  {trial.number:>4}", now=is_better)
