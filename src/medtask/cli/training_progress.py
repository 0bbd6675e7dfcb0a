"""Progress of a training: loss, validation score, speed and the estimated time left."""

from __future__ import annotations

import time
from math import isfinite

from medtask.cli.progress import ProgressDisplay
from medtask.cli.remaining_time import SteadyEstimate
from medtask.cli.waiting import set_activity
from medtask.display import format_clock, format_count
from medtask.training.training_log import TrainingPoint


class TrainingProgressDisplay(ProgressDisplay):
    """Progress of a training, with a line for every validation.

    Attributes:
        score_name: Name of the validation score.
        steps: Number of steps of the training.
        done: Number of steps taken.
    """

    bar_width = 24

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.score_name = "accuracy"
        self.steps = self.done = 0
        self._steps_before = 0  # steps of earlier sessions, which are not timed
        self._finished = False
        self._steady = SteadyEstimate(time.monotonic())
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
        self._updated_at, self._finished = time.monotonic(), False
        extent = (
            f"resumes after step {done:,} of {steps:,}" if done else format_count(steps, "step")
        )
        self.print_line(f"{f'Training {self.model_title}'.strip()}: {extent}")
        self._steady = SteadyEstimate(self._updated_at)
        if self._bar is None:
            set_activity(self._describe_position, is_printed=True)
        self.start_bar(steps, done)

    def on_point(self, point: TrainingPoint) -> None:
        spent, self._updated_at = time.monotonic() - self._updated_at, time.monotonic()
        # A validation has the number of its step; it is reported after the step or together with
        # it.
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
        self.show_progress(
            self.done,
            self.describe(),
            f"step {self.done:,} of {self.steps:,}",
            now=self._validation_point is point,
        )

    def on_finish(self) -> None:
        self.stop_bar()
        if not self._finished:  # reported by the method, and again by the code that calls it
            self._finished = True
            line = "Training finished; saving and evaluating the model"
            self.print_line(line)
            set_activity(line, is_printed=True)

    def _describe_position(self) -> str:
        return f"step {self.done:,} of {self.steps:,}   {self.describe()}".strip()

    def estimate_seconds_left(self) -> float | None:
        """Estimate the seconds left, from the steps and validations of this session.

        Returns:
            The seconds without early stopping; None before the first step and after the last.
        """
        steps_taken = self.done - self._steps_before
        if steps_taken <= 0 or self.done >= self.steps:
            return None
        steps = (self.steps - self.done) * self._step_seconds / steps_taken
        # One validation after each interval, and one at the end.
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
        left = self._steady.check(self.estimate_seconds_left(), time.monotonic())
        if left is not None:
            facts.append(f"{format_clock(left)} left")
        return "   ".join(facts)

    def _record_validation(self, point: TrainingPoint) -> None:
        if self._last_validation_step:
            self._validation_interval = point.step - self._last_validation_step
        elif not self._steps_before:
            self._validation_interval = point.step
        elif point.epoch > 0:
            # A resumed session starts between two validations, so the interval is estimated.
            self._validation_interval = round(point.step / point.epoch)
        self._last_validation_step, self._validation_point = point.step, point


def _format_decimal(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and isfinite(value) else "not finite"
