"""Candidates asked about rows with gold: how good each is, how long it takes, and which is the best
so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medtask.decision.predictor import predict
from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.evaluate.words import duration
from medtask.records import Answer
from medtask.runs.interrupt import Signals
from medtask.tasks.task import Task
from medtask.train.material import Lesson
from medtask.train.search.candidate import Candidate, apply_candidate, read_candidate
from medtask.train.search.clock import Clock
from medtask.train.search.gain import score_rows
from medtask.train.search.parts import Parts

LEAST_ROWS = 24  # of validation or test: with fewer a search only finds chance
_WARM, _TIMED = 8, 16  # rows that are asked before anything is timed, and rows that are timed
_CANDIDATES = 12  # that a budget has to have room for before validation takes more rows
_TEST_SHARE = 0.4  # of the budget that the test may take at most
# how much longer than the task as it was a result may take a row: worked examples are read, too
_DEARER = 1.5
_MOST_VALIDATION = 400


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate that was asked about all rows of validation. ``number`` counts from 0, which is
    the task as it was. ``value``: the kind's headline; ``best``: the highest so far. ``what``: how
    it was made, in a word.
    """

    number: int
    what: str
    value: float
    best: float
    left_s: float


class Viewer(Protocol):
    """Who wants to know how a search gets on."""

    def on_note(self, text: str) -> None:
        """A fact that people should know, in one line."""

    def on_load(self, model: str) -> None:
        """A model is loaded next."""

    def on_stage(self, text: str) -> None:
        """What is done next, in a line."""

    def on_trial(self, trial: Trial) -> None:
        """One more was tried."""


class Unviewed:
    """The Viewer of someone who does not want to know."""

    def on_note(self, text: str) -> None: ...
    def on_load(self, model: str) -> None: ...
    def on_stage(self, text: str) -> None: ...
    def on_trial(self, trial: Trial) -> None: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """``value``: the kind's headline; ``scores``: each row's own, in [0, 1] (see
    gain.score_rows).
    """

    value: float
    scores: tuple[float, ...]
    answers: tuple[Answer, ...]


class Bench:
    """Asks one engine, keeps to one clock, and remembers the best.

    What decides is the whole of validation; ties go to the candidate that came first, so that a
    search without a gain ends in the task as it was. Rows of the test are not here.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        parts: Parts,
        clock: Clock,
        viewer: Viewer,
        signals: Signals,
    ) -> None:
        self.task, self.engine, self.clock, self.viewer, self.signals = (
            task,
            engine,
            clock,
            viewer,
            signals,
        )
        self.train, self.validation, self.test_rows = parts.train, parts.validation, len(parts.test)
        self.pace = 0.0  # seconds a row
        self._entered = 0
        self.best, self.value, self.base_value = read_candidate(task), -1.0, -1.0
        self._known: dict[str, Measured] = {}
        self._asked: set[str] = set()

    def begin(self) -> None:
        """Ask the task as it is; how long that takes decides how many rows the budget has room for.

        UsageError where it has room for none; Halt as in ``measure``.
        """
        first = self.validation[: _WARM + _TIMED]
        self._ask(self.task, first[:_WARM])
        self.pace = self._time(first[_WARM:] or first)
        room = self.clock.left()
        self.test_rows = _fit(self.test_rows, _TEST_SHARE * room / (2 * _DEARER * self.pace))
        self.clock.kept_s = 2 * _DEARER * self.test_rows * self.pace
        wanted = _fit(
            min(len(self.validation), _MOST_VALIDATION),
            self.clock.left() / (_CANDIDATES * self.pace),
        )
        if self.clock.left() < 2 * wanted * self.pace:
            least = (2 * _DEARER * self.test_rows + 2 * wanted) * self.pace + self.clock.spent()
            message = (
                f"{self.engine.info.title} takes {self.pace:.2g} s a row: the budget has "
                "no room for a search"
            )
            raise UsageError(
                message, fix=f"give --budget {duration(1.5 * least)} or more, or a faster model"
            )
        self.validation = self.validation[:wanted]
        self.base_value = self.validate(self.best, "as it was")

    @property
    def tried(self) -> int:
        """How many different candidates were asked, the task as it is among them."""
        return len(self._asked)

    def validate(self, candidate: Candidate, what: str) -> float:
        """A candidate's headline on all of validation."""
        return self.measure(candidate, self.validation, what).value

    def measure(self, candidate: Candidate, lessons: Sequence[Lesson], what: str = "") -> Measured:
        """A candidate on some rows; on all of validation it becomes the best where none before it
        was as good.

        Halt where the clock has no time for that; Interrupted where a signal came.
        """
        task = apply_candidate(self.task, candidate)
        whole = len(lessons) == len(self.validation) and all(
            map(_is_same, lessons, self.validation)
        )
        if whole and task.fingerprint in self._known:
            return self._known[task.fingerprint]
        self.signals.check()
        self.clock.check(len(lessons) * self.pace)
        self._asked.add(task.fingerprint)
        began = self.clock.now()
        answers = self._ask(task, lessons)
        if lessons:
            # Candidates with more examples take longer: the pace follows them.
            self.pace = 0.5 * self.pace + 0.5 * (self.clock.now() - began) / len(lessons)
        value, scores = score_rows(task, lessons, answers)
        measured = Measured(value, tuple(scores), answers)
        if whole:
            self._known[task.fingerprint] = measured
            self._enter(candidate, value, what)
        return measured

    def _enter(self, candidate: Candidate, value: float, what: str) -> None:
        if value > self.value:
            self.best, self.value = candidate, value
        self.viewer.on_trial(Trial(self._entered, what, value, self.value, self.clock.left()))
        self._entered += 1

    def _ask(self, task: Task, lessons: Sequence[Lesson]) -> tuple[Answer, ...]:
        return ask_lessons(task, self.engine, lessons)

    def _time(self, lessons: Sequence[Lesson]) -> float:
        began = self.clock.now()
        self._ask(self.task, lessons)
        return max(1e-6, (self.clock.now() - began) / len(lessons))


def ask_lessons(task: Task, engine: Engine, lessons: Sequence[Lesson]) -> tuple[Answer, ...]:
    """The engine's answers, in the lessons' order. It is not told the gold."""
    return tuple(predict(task, engine, [replace(lesson.record, gold=None) for lesson in lessons]))


def _fit(rows: int, room: float) -> int:
    """As many of the rows as there is room for, but never so few that nothing could be told by
    them.
    """
    return min(rows, max(LEAST_ROWS, int(room)))


def _is_same(one: Lesson, other: Lesson) -> bool:
    return one is other
