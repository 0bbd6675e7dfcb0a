"""Candidates asked about rows with gold: how good each is, how long it takes, and which is the best
so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medtask.display import format_duration
from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.prediction.predictor import predict
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

MIN_EVALUATION_ROWS = 24  # of validation or test: with fewer a search only finds chance
_WARMUP_ROWS, _TIMED = (
    8,
    16,
)  # rows that are asked before anything is timed, and rows that are timed
_MIN_CANDIDATES = 12  # that a budget has to have room for before validation takes more rows
_MAX_TEST_SHARE = 0.4  # of the budget that the test may take at most
# how much longer than the task as it was a result may take a row: worked examples are read, too
_MAX_SLOWDOWN = 1.5
_MAX_VALIDATION_ROWS = 400


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """A candidate that was asked about all rows of validation. ``number`` counts from 0, which
    is the task as it was. ``value``: the kind's headline; ``best``: the highest so far.
    ``description``: how it was made, in a word.
    """

    number: int
    description: str
    value: float
    best: float
    remaining_s: float


class SearchObserver(Protocol):
    """Who wants to know how a search gets on."""

    def on_note(self, text: str) -> None:
        """A fact that people should know, in one line."""

    def on_load(self, model: str) -> None:
        """A model is loaded next."""

    def on_stage(self, text: str) -> None:
        """What is done next, in a line."""

    def on_trial(self, trial: SearchTrial) -> None:
        """One more was tried."""


class NullSearchObserver:
    """The Viewer of someone who does not want to know."""

    def on_note(self, text: str) -> None: ...
    def on_load(self, model: str) -> None: ...
    def on_stage(self, text: str) -> None: ...
    def on_trial(self, trial: SearchTrial) -> None: ...


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
    """``value``: the kind's headline; ``scores``: each row's own, in [0, 1] (see
    gain.score_rows).
    """

    value: float
    scores: tuple[float, ...]
    answers: tuple[Answer, ...]


class CandidateEvaluator:
    """Asks one engine, keeps to one clock, and remembers the best.

    What decides is the whole of validation; ties go to the candidate that came first, so that a
    search without a gain ends in the task as it was. Rows of the test are not here.
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
        self.task, self.engine, self.clock, self.viewer, self.signals = (
            task,
            engine,
            budget,
            observer,
            signals,
        )
        self.train, self.validation, self.test_rows = (
            search_data.train,
            search_data.validation,
            len(search_data.test),
        )
        self.seconds_per_row = 0.0  # seconds a row
        self._trial_count = 0
        self.best, self.value, self.baseline_value = extract_candidate(task), -1.0, -1.0
        self._cached: dict[str, CandidateEvaluation] = {}
        self._evaluated: set[str] = set()

    def evaluate_baseline(self) -> None:
        """Ask the task as it is; how long that takes decides how many rows the budget has room for.

        UsageError where it has room for none; Halt as in ``measure``.
        """
        first = self.validation[: _WARMUP_ROWS + _TIMED]
        self._answer_rows(self.task, first[:_WARMUP_ROWS])
        self.seconds_per_row = self._measure_seconds_per_row(first[_WARMUP_ROWS:] or first)
        room = self.clock.remaining_s()
        self.test_rows = _limit_rows(
            self.test_rows, _MAX_TEST_SHARE * room / (2 * _MAX_SLOWDOWN * self.seconds_per_row)
        )
        self.clock.reserved_s = 2 * _MAX_SLOWDOWN * self.test_rows * self.seconds_per_row
        wanted = _limit_rows(
            min(len(self.validation), _MAX_VALIDATION_ROWS),
            self.clock.remaining_s() / (_MIN_CANDIDATES * self.seconds_per_row),
        )
        if self.clock.remaining_s() < 2 * wanted * self.seconds_per_row:
            least = (
                2 * _MAX_SLOWDOWN * self.test_rows + 2 * wanted
            ) * self.seconds_per_row + self.clock.elapsed_s()
            message = (
                f"{self.engine.info.title} takes {self.seconds_per_row:.2g} s a row: the budget "
                "has "
                "no room for a search"
            )
            raise UsageError(
                message,
                fix=f"give --budget {format_duration(1.5 * least)} or more, or a faster model",
            )
        self.validation = self.validation[:wanted]
        self.baseline_value = self.validate(self.best, "as it was")

    @property
    def evaluated_count(self) -> int:
        """How many different candidates were asked, the task as it is among them."""
        return len(self._evaluated)

    def validate(self, candidate: PromptCandidate, description: str) -> float:
        """A candidate's headline on all of validation."""
        return self.evaluate(candidate, self.validation, description).value

    def evaluate(
        self, candidate: PromptCandidate, rows: Sequence[TrainingExample], description: str = ""
    ) -> CandidateEvaluation:
        """A candidate on some rows; on all of validation it becomes the best where none before it
        was as good.

        Halt where the clock has no time for that; Interrupted where a signal came.
        """
        task = apply_candidate(self.task, candidate)
        whole = len(rows) == len(self.validation) and all(map(_is_same, rows, self.validation))
        if whole and task.fingerprint in self._cached:
            return self._cached[task.fingerprint]
        self.signals.raise_if_caught()
        self.clock.check_time_left(len(rows) * self.seconds_per_row)
        self._evaluated.add(task.fingerprint)
        began = self.clock.now()
        answers = self._answer_rows(task, rows)
        if rows:
            # Candidates with more examples take longer: the pace follows them.
            self.seconds_per_row = 0.5 * self.seconds_per_row + 0.5 * (
                self.clock.now() - began
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
        self.viewer.on_trial(
            SearchTrial(
                self._trial_count, description, best_value, self.value, self.clock.remaining_s()
            )
        )
        self._trial_count += 1

    def _answer_rows(self, task: Task, rows: Sequence[TrainingExample]) -> tuple[Answer, ...]:
        return answer_rows(task, self.engine, rows)

    def _measure_seconds_per_row(self, rows: Sequence[TrainingExample]) -> float:
        began = self.clock.now()
        self._answer_rows(self.task, rows)
        return max(1e-6, (self.clock.now() - began) / len(rows))


def answer_rows(task: Task, engine: Engine, rows: Sequence[TrainingExample]) -> tuple[Answer, ...]:
    """The engine's answers, in the lessons' order. It is not told the gold."""
    return tuple(predict(task, engine, [replace(row.record, gold=None) for row in rows]))


def _limit_rows(rows: int, affordable_rows: float) -> int:
    """As many of the rows as there is room for, but never so few that nothing could be told by
    them.
    """
    return min(rows, max(MIN_EVALUATION_ROWS, int(affordable_rows)))


def _is_same(one: TrainingExample, other: TrainingExample) -> bool:
    return one is other
