"""How a training is followed: a bar on a terminal, else a line every ten seconds and at every
validation.
"""

from __future__ import annotations

import sys
import time
from math import isfinite
from types import TracebackType

from medtask.cli import show
from medtask.cli.progress import LINE_SECONDS, Bar, Follower, Teller, clock
from medtask.train.journal import Point


class TrainingMeter(Follower):
    """Follows a training in silence. ``measure``: what the score of a validation is."""

    def __init__(self) -> None:
        super().__init__()
        self.measure = "accuracy"
        self.steps = self.done = 0
        self._before = 0  # steps of earlier sessions: they say nothing about this one's pace
        self._until = time.monotonic()
        self._stepping = self._checking = 0.0
        self._checks = self._checked_at = self._interval = 0
        self._loss: Point | None = None
        self._check: Point | None = None
        self._pace: Point | None = None

    def on_start(self, steps: int, done: int) -> None:
        self.steps, self.done, self._before = steps, done, done
        self._stepping = self._checking = 0.0
        self._checks = self._checked_at = self._interval = 0
        self._until = time.monotonic()

    def on_point(self, point: Point) -> None:
        spent, self._until = time.monotonic() - self._until, time.monotonic()
        # A validation stands at the step before it, or brings its step along.
        if point.step > self.done:
            self._stepping += spent
        else:
            self._checking += spent
            self._checks += 1
        self.steps, self.done = point.steps, point.step
        if point.loss is not None:
            self._loss = point
        if point.tokens_per_s is not None or point.rows_per_s is not None:
            self._pace = point
        if point.validation_loss is not None or point.score is not None:
            self._note_check(point)
        self.show_point(checked=self._check is point)

    def show_point(self, *, checked: bool) -> None:
        """``checked``: the point is a validation."""

    def seconds_left(self) -> float | None:
        """Until the last step and the validations before it, as long as this session's were; None
        before a step was taken.

        A training that stops early has less.
        """
        taken = self.done - self._before
        if taken <= 0 or self.done >= self.steps:
            return None
        steps = (self.steps - self.done) * self._stepping / taken
        # Behind each interval comes a validation, and one at the end.
        checks = -((self._checked_at - self.steps) // self._interval) if self._interval else 0
        return steps + (checks * self._checking / self._checks if self._checks else 0.0)

    def describe(self) -> str:
        """ "loss 0.412   validation 0.389 (accuracy 0.871)   1,204 tokens/s   6:02 left"."""
        facts = []
        if self._loss is not None:
            facts.append(f"loss {_decimal(self._loss.loss)}")
        if (check := self._check) is not None:
            loss = [_decimal(check.validation_loss)] if check.validation_loss is not None else []
            score = [f"({self.measure} {_decimal(check.score)})"] if check.score is not None else []
            facts.append(" ".join(["validation", *loss, *score]))
        if (pace := self._pace) is not None:
            facts.append(
                f"{pace.tokens_per_s:,.0f} tokens/s"
                if pace.tokens_per_s is not None
                else f"{pace.rows_per_s:,.1f} rows/s"
            )
        if (left := self.seconds_left()) is not None:
            facts.append(f"{clock(left)} left")
        return "   ".join(facts)

    def _note_check(self, point: Point) -> None:
        if self._checked_at:
            self._interval = point.step - self._checked_at
        elif not self._before:
            self._interval = point.step
        elif point.epoch > 0:
            # A resumed session began between two validations: the distance is not known.
            self._interval = round(point.step / point.epoch)
        self._checked_at, self._check = point.step, point


class TrainingLines(Teller, TrainingMeter):
    """Follows a training in plain lines on standard error: for logs and schedulers."""

    _shown = 0.0
    _finished = False

    def on_start(self, steps: int, done: int) -> None:
        super().on_start(steps, done)
        self._shown, self._finished = self._until, False
        what = f"Training {self.title}".strip()
        went = (
            f"goes on behind step {done:,} of {steps:,}" if done else f"{show.count(steps, 'step')}"
        )
        show.say(f"{what}: {went}", stderr=True)

    def on_finish(self) -> None:
        if not self._finished:  # a method says so, and so does the training around it
            self._finished = True
            show.say("The training is over; the model is saved and measured", stderr=True)

    def show_point(self, *, checked: bool) -> None:
        if checked or self._until - self._shown >= LINE_SECONDS:
            self._shown = self._until
            show.say(f"step {self.done:,} of {self.steps:,}   {self.describe()}", stderr=True)


class TrainingBar(TrainingLines):
    """The same on a terminal, with a bar in place of the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Bar(width=24)

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

    def show_point(self, *, checked: bool) -> None:
        self._bar.move(self.done, self.describe())


def choose_training_meter(*, quiet: bool) -> TrainingMeter:
    """Silent if asked to be; else what suits standard error."""
    return TrainingMeter() if quiet else TrainingBar() if sys.stderr.isatty() else TrainingLines()


def _decimal(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and isfinite(value) else "not finite"
