"""How a training is followed: a bar on a terminal, else a line every ten seconds and at every
validation.
"""

from __future__ import annotations

import sys
import time
from math import isfinite
from types import TracebackType

from medtask.cli import console as show
from medtask.cli.progress import LINE_INTERVAL_S, ProgressBar, ProgressDisplay, ProgressPrinter
from medtask.display import format_clock, format_count
from medtask.training.training_log import TrainingPoint


class TrainingProgressDisplay(ProgressDisplay):
    """Follows a training in silence. ``score_name``: what the score of a validation is."""

    def __init__(self) -> None:
        super().__init__()
        self.score_name = "accuracy"
        self.steps = self.done = 0
        self._steps_before = 0  # steps of earlier sessions: they say nothing about this one's pace
        self._updated_at = time.monotonic()
        self._step_seconds = self._validation_seconds = 0.0
        self._validations = self._last_validation_step = self._validation_interval = 0
        self._loss_point: TrainingPoint | None = None
        self._validation_point: TrainingPoint | None = None
        self._speed_point: TrainingPoint | None = None

    def on_start(self, steps: int, done: int) -> None:
        self.steps, self.done, self._steps_before = steps, done, done
        self._step_seconds = self._validation_seconds = 0.0
        self._validations = self._last_validation_step = self._validation_interval = 0
        self._updated_at = time.monotonic()

    def on_point(self, point: TrainingPoint) -> None:
        spent, self._updated_at = time.monotonic() - self._updated_at, time.monotonic()
        # A validation stands at the step before it, or brings its step along.
        if point.step > self.done:
            self._step_seconds += spent
        else:
            self._validation_seconds += spent
            self._validations += 1
        self.steps, self.done = point.steps, point.step
        if point.loss is not None:
            self._loss_point = point
        if point.tokens_per_s is not None or point.rows_per_s is not None:
            self._speed_point = point
        if point.validation_loss is not None or point.score is not None:
            self._record_validation(point)
        self.show_point(is_validation=self._validation_point is point)

    def show_point(self, *, is_validation: bool) -> None:
        """``is_validation``: the point is a validation."""

    def estimate_seconds_left(self) -> float | None:
        """Until the last step and the validations before it, as long as this session's were; None
        before a step was taken.

        A training that stops early has less.
        """
        steps_taken = self.done - self._steps_before
        if steps_taken <= 0 or self.done >= self.steps:
            return None
        steps = (self.steps - self.done) * self._step_seconds / steps_taken
        # Behind each interval comes a validation, and one at the end.
        validations = (
            -((self._last_validation_step - self.steps) // self._validation_interval)
            if self._validation_interval
            else 0
        )
        return steps + (
            validations * self._validation_seconds / self._validations if self._validations else 0.0
        )

    def describe(self) -> str:
        """ "loss 0.412   validation 0.389 (accuracy 0.871)   1,204 tokens/s   6:02 left"."""
        facts = []
        if self._loss_point is not None:
            facts.append(f"loss {_format_decimal(self._loss_point.loss)}")
        if (check := self._validation_point) is not None:
            loss = (
                [_format_decimal(check.validation_loss)]
                if check.validation_loss is not None
                else []
            )
            score = (
                [f"({self.score_name} {_format_decimal(check.score)})"]
                if check.score is not None
                else []
            )
            facts.append(" ".join(["validation", *loss, *score]))
        if (pace := self._speed_point) is not None:
            facts.append(
                f"{pace.tokens_per_s:,.0f} tokens/s"
                if pace.tokens_per_s is not None
                else f"{pace.rows_per_s:,.1f} rows/s"
            )
        if (left := self.estimate_seconds_left()) is not None:
            facts.append(f"{format_clock(left)} left")
        return "   ".join(facts)

    def _record_validation(self, point: TrainingPoint) -> None:
        if self._last_validation_step:
            self._validation_interval = point.step - self._last_validation_step
        elif not self._steps_before:
            self._validation_interval = point.step
        elif point.epoch > 0:
            # A resumed session began between two validations: the distance is not known.
            self._validation_interval = round(point.step / point.epoch)
        self._last_validation_step, self._validation_point = point.step, point


class TrainingProgressLines(ProgressPrinter, TrainingProgressDisplay):
    """Follows a training in plain lines on standard error: for logs and schedulers."""

    _printed_at = 0.0
    _finished = False

    def on_start(self, steps: int, done: int) -> None:
        super().on_start(steps, done)
        self._printed_at, self._finished = self._updated_at, False
        what = f"Training {self.model_title}".strip()
        extent = (
            f"goes on behind step {done:,} of {steps:,}"
            if done
            else f"{format_count(steps, 'step')}"
        )
        show.print_line(f"{what}: {extent}", stderr=True)

    def on_finish(self) -> None:
        if not self._finished:  # a method says so, and so does the training around it
            self._finished = True
            show.print_line("The training is over; the model is saved and measured", stderr=True)

    def show_point(self, *, is_validation: bool) -> None:
        if is_validation or self._updated_at - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = self._updated_at
            show.print_line(
                f"step {self.done:,} of {self.steps:,}   {self.describe()}", stderr=True
            )


class TrainingProgressBar(TrainingProgressLines):
    """The same on a terminal, with a bar in place of the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = ProgressBar(width=24)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def on_start(self, steps: int, done: int) -> None:
        super().on_start(steps, done)
        self._bar.start(steps, done)

    def on_finish(self) -> None:
        self._bar.stop()
        super().on_finish()

    def show_point(self, *, is_validation: bool) -> None:
        self._bar.update(self.done, self.describe())


def make_training_display(*, quiet: bool) -> TrainingProgressDisplay:
    """Silent if asked to be; else what suits standard error."""
    return (
        TrainingProgressDisplay()
        if quiet
        else TrainingProgressBar()
        if sys.stderr.isatty()
        else TrainingProgressLines()
    )


def _format_decimal(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and isfinite(value) else "not finite"
