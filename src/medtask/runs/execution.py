"""The long part of a run: every row that has no answer gets one, and the ledger gets them all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from medtask.engines.base import Engine
from medtask.prediction.predictor import answer_rows
from medtask.records import Record
from medtask.runs.ledger import Ledger
from medtask.runs.signals import SignalState
from medtask.tasks.task import Task


class RunObserver(Protocol):
    """Who wants to know how a run gets on."""

    def on_note(self, text: str) -> None:
        """A fact that people should know, in one line."""

    def on_start(self, rows: int, done: int) -> None:
        """How many rows there are, and how many of them an earlier session has answered."""

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        """How many rows are answered and safe on the disk, and what this session has cost so
        far.
        """

    def on_finish(self) -> None:
        """All rows are answered; tables and report are written next."""


class NullRunObserver:
    """The Progress of someone who does not want to know."""

    def on_note(self, text: str) -> None: ...
    def on_start(self, rows: int, done: int) -> None: ...
    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None: ...
    def on_finish(self) -> None: ...


@dataclass(slots=True)
class SessionCost:
    """What one session did: rows answered (copies and faults too), the tokens and the seconds that
    they took.
    """

    rows: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    seconds: float = 0.0


def fill_ledger(
    ledger: Ledger,
    task: Task,
    engine: Engine,
    pass_engines: Mapping[str, Engine],
    records: Iterable[Record],
    answered_rows: int,
    cost: SessionCost,
    signals: SignalState,
    progress: RunObserver,
) -> None:
    """Answer all records that the ledger has no answer for; ``answered_rows`` is how many it has.
    ``cost`` grows as it goes.

    ``pass_engines``: the models of further passes.
    """
    started = time.monotonic()
    with closing(answer_rows(task, engine, records, ledger, pass_engines=pass_engines)) as answers:
        for row_answer in answers:
            cost.rows += 1
            cost.tokens_read += row_answer.answer.tokens_read
            cost.tokens_reused += row_answer.answer.tokens_reused
            cost.seconds = time.monotonic() - started
            if ledger.add(row_answer):
                progress.on_batch(answered_rows + cost.rows, cost.tokens_read, cost.tokens_reused)
            signals.raise_if_caught()
    ledger.flush()
    progress.on_batch(answered_rows + cost.rows, cost.tokens_read, cost.tokens_reused)
