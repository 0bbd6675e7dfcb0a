"""The observer of runs and trainings in a job: it sends their events to the worker."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from medtask.server.jobs.messages import JobChannel

if TYPE_CHECKING:
    from medtask.training.search.candidate_evaluator import SearchTrial
    from medtask.training.training_log import TrainingPoint


class JobObserver:
    """An observer of runs, trainings, searches and baselines."""

    def __init__(self, channel: JobChannel) -> None:
        self._channel = channel
        self._started = time.monotonic()
        self._done_before = 0

    def on_note(self, text: str) -> None:
        """Add a note to the log."""
        self._channel.send_line(text)

    def on_load(self, model: str) -> None:
        """Report that a model is loaded."""
        self._channel.send_line(f"loading {model}")
        self.set_phase("loading")

    def set_phase(self, phase: str) -> None:
        """Report what the job does next."""
        self._channel.send_progress(at_once=True, phase=phase, rows_per_s=None, point=None)

    def on_start(self, rows: int, done: int) -> None:
        """Report the number of rows or steps, and of those done in earlier sessions."""
        self._started, self._done_before = time.monotonic(), done
        self._channel.send_progress(at_once=True, phase="working", done=done, total=rows)

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        """Report answered rows."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        per_s = (done - self._done_before) / seconds
        self._channel.send_progress(
            done=done,
            tokens_read=tokens_read,
            tokens_reused=tokens_reused,
            rows_per_s=round(per_s, 3),
        )

    def on_point(self, point: TrainingPoint) -> None:
        """Report a point of the loss curve."""
        facts = {name: value for name, value in asdict(point).items() if value is not None}
        self._channel.send_progress(
            at_once=point.validation_loss is not None,
            phase="working",
            done=point.step,
            total=point.steps,
            point=facts,
        )

    def on_stage(self, text: str) -> None:
        """Report the next stage of a search."""
        self._channel.send_line(text)
        self.set_phase(text)

    def on_trial(self, trial: SearchTrial) -> None:
        """Report a candidate of a search."""
        self._channel.send_line(
            f"candidate {trial.number}: {trial.value:.3f}, the best so far {trial.best:.3f}"
        )

    def on_finish(self) -> None:
        """Report that the rows are done; tables, reports and metrics follow."""
        self.set_phase("writing")

    def on_baseline(self, method: str, done: int, rows: int) -> None:
        """Report the progress of a simple method on the same rows."""
        self.on_rows(f"baseline {method}", done, rows)

    def on_rows(self, phase: str, done: int, rows: int) -> None:
        """Report how many rows a phase has done."""
        # The speed of the phase before would give a wrong time until the last row.
        self._channel.send_progress(phase=phase, done=done, total=rows, rows_per_s=None, point=None)
