"""Evaluates candidates on validation rows within a time budget, and keeps the best."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medtask.display import format_duration
from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.prediction.predictor import predict_uncalibrated
from medtask.records import Answer
from medtask.runs.signals import SignalState
from medtask.tasks.task import Task
from medtask.training.search.gain import score_answers
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    apply_candidate,
    extract_candidate,
)
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData
from medtask.training.training_data import TrainingExample

# minimum number of validation and of test rows; with fewer, a search finds only noise
MIN_EVALUATION_ROWS = 24
# Rows that are answered before timing starts, and rows that are timed
_WARMUP_ROWS, _TIMED = (8, 16)
# minimum number of candidates in the budget, before more validation rows are used
_MIN_CANDIDATES = 12
_MAX_TEST_SHARE = 0.4  # share of the budget for the final test
# How much slower a row may be with the result than with the original task, as prompts have
# examples.
_MAX_SLOWDOWN = 1.5
_MAX_VALIDATION_ROWS = 400


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """A candidate that was evaluated on all validation rows.

    Attributes:
        number: Number of the trial; 0 is the original task.
        description: How the candidate was made.
        value: The headline metric of the kind.
        best: The highest value so far.
        remaining_s: The seconds that are left.
    """

    number: int
    description: str
    value: float
    best: float
    remaining_s: float


class SearchObserver(Protocol):
    """Receives the events of a search."""

    def on_note(self, text: str) -> None:
        """A fact that the user should know, in one line."""

    def on_load(self, model: str) -> None:
        """A model is about to be loaded."""

    def on_stage(self, text: str) -> None:
        """The next stage of the search, in a line."""

    def on_trial(self, trial: SearchTrial) -> None:
        """A candidate was tried."""


class NullSearchObserver:
    """An observer that ignores all events."""

    def on_note(self, text: str) -> None: ...
    def on_load(self, model: str) -> None: ...
    def on_stage(self, text: str) -> None: ...
    def on_trial(self, trial: SearchTrial) -> None: ...


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
    """The headline metric of a candidate, and each row's score in [0, 1]; see `score_answers`."""

    value: float
    scores: tuple[float, ...]
    answers: tuple[Answer, ...]


class CandidateEvaluator:
    """Evaluates candidates with one engine and one budget, and keeps the best.

    Candidates are compared on all validation rows. Ties go to the earlier candidate, so that a
    search without a gain returns the original task. Test rows are not used here.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        search_data: SearchData,
        budget: SearchBudget,
        observer: SearchObserver,
        signals: SignalState,
    ) -> None:
        self.task = task
        self.engine = engine
        self.budget = budget
        self.observer = observer
        self.signals = signals
        self.train = search_data.train
        self.validation = search_data.validation
        self.test_rows = len(search_data.test)
        self.seconds_per_row = 0.0
        self._trial_count = 0
        self.best, self.value, self.baseline_value = extract_candidate(task), -1.0, -1.0
        self._cached: dict[str, CandidateEvaluation] = {}
        self._evaluated: set[str] = set()

    def evaluate_baseline(self) -> None:
        """Evaluate the original task; its duration determines how many rows fit into the budget.

        Raises:
            UsageError: No rows fit into the budget.
            SearchStopped: See `evaluate`.
        """
        first = self.validation[: _WARMUP_ROWS + _TIMED]
        answer_rows(self.task, self.engine, first[:_WARMUP_ROWS])
        timed, began = first[_WARMUP_ROWS:] or first, self.budget.now()
        answer_rows(self.task, self.engine, timed)
        self.seconds_per_row = max(1e-6, (self.budget.now() - began) / len(timed))
        room = self.budget.remaining_s()
        self.test_rows = _limit_rows(
            self.test_rows, _MAX_TEST_SHARE * room / (2 * _MAX_SLOWDOWN * self.seconds_per_row)
        )
        self.budget.reserved_s = 2 * _MAX_SLOWDOWN * self.test_rows * self.seconds_per_row
        rows = _limit_rows(
            min(len(self.validation), _MAX_VALIDATION_ROWS),
            self.budget.remaining_s() / (_MIN_CANDIDATES * self.seconds_per_row),
        )
        if self.budget.remaining_s() < 2 * rows * self.seconds_per_row:
            least = (
                2 * _MAX_SLOWDOWN * self.test_rows + 2 * rows
            ) * self.seconds_per_row + self.budget.elapsed_s()
            message = (
                f"{self.engine.info.title} takes {self.seconds_per_row:.2g} s per row: the budget "
                "is too small for a search"
            )
            raise UsageError(
                message,
                fix=f"give --budget {format_duration(1.5 * least)} or more, or a faster model",
            )
        self.validation = self.validation[:rows]
        self.baseline_value = self.validate(self.best, "original task")

    @property
    def evaluated_count(self) -> int:
        """The number of distinct candidates that were evaluated, including the original task."""
        return len(self._evaluated)

    def validate(self, candidate: PromptCandidate, description: str) -> float:
        """The headline metric of a candidate on all validation rows."""
        return self.evaluate(candidate, self.validation, description).value

    def evaluate(
        self, candidate: PromptCandidate, rows: Sequence[TrainingExample], description: str = ""
    ) -> CandidateEvaluation:
        """Evaluate a candidate on some rows; on all validation rows it may become the best.

        Raises:
            SearchStopped: The remaining budget is too small.
            Interrupted: A signal was received.
        """
        task = apply_candidate(self.task, candidate)
        whole = len(rows) == len(self.validation) and all(map(operator.is_, rows, self.validation))
        if whole and task.fingerprint in self._cached:
            return self._cached[task.fingerprint]
        self.signals.raise_if_caught()
        self.budget.check_time_left(len(rows) * self.seconds_per_row)
        self._evaluated.add(task.fingerprint)
        began = self.budget.now()
        answers = answer_rows(task, self.engine, rows)
        if rows:
            # Candidates with more examples take longer, so the estimate is updated.
            self.seconds_per_row = 0.5 * self.seconds_per_row + 0.5 * (
                self.budget.now() - began
            ) / len(rows)
        value, scores = score_answers(task, rows, answers)
        evaluation = CandidateEvaluation(value, tuple(scores), answers)
        if whole:
            self._cached[task.fingerprint] = evaluation
            self._record_trial(candidate, value, description)
        return evaluation

    def _record_trial(
        self, candidate: PromptCandidate, best_value: float, description: str
    ) -> None:
        if best_value > self.value:
            self.best, self.value = candidate, best_value
        self.observer.on_trial(
            SearchTrial(
                self._trial_count, description, best_value, self.value, self.budget.remaining_s()
            )
        )
        self._trial_count += 1


def answer_rows(task: Task, engine: Engine, rows: Sequence[TrainingExample]) -> tuple[Answer, ...]:
    """The engine's answers in the rows' order, without access to gold."""
    return tuple(
        predict_uncalibrated(task, engine, [replace(row.record, gold=None) for row in rows])
    )


def _limit_rows(rows: int, affordable_rows: float) -> int:
    """As many rows as are affordable, but at least MIN_EVALUATION_ROWS."""
    return min(rows, max(MIN_EVALUATION_ROWS, int(affordable_rows)))
