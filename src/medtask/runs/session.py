"""Sessions: the work of one process on a run folder, shared by runs and judging.

A session manages the folder's lock, the models, the identity, the manifest, the network guard, the
ledger and the signals. The caller writes the output (tables, reports) from the ledger:

    with open_session(request, model, observer) as session:
        session.answer(records)
        write_tables(session.ledger, session.finish())
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError
from medtask.prediction.predictor import AnswerMethod, answer_rows
from medtask.privacy import NetworkGuard
from medtask.records import Record, Status
from medtask.runs.answer_cache import open_cached_ledger
from medtask.runs.batch_sizes import restore_batch_size
from medtask.runs.ledger import Ledger
from medtask.runs.ledger_comparison import FORMER_ROWS
from medtask.runs.ledger_file import describe_loss
from medtask.runs.manifest import (
    get_timestamp,
    guard_network,
    sum_timing,
    write_manifest,
)
from medtask.runs.progress import NullRunObserver, RunObserver, SessionCost
from medtask.runs.session_folder import apply_table_change, open_manifest, open_session_folder
from medtask.runs.session_request import SessionRequest
from medtask.runs.signals import Interrupted, SignalState, catch_signals
from medtask.runs.table_change import TableChange

SessionState = Literal["finished", "interrupted"]


@dataclass(slots=True)
class Session:
    """An open session; see `open_session`.

    Attributes:
        request: The work of the session.
        folder: The run folder, locked for this process.
        engine: The model.
        pass_engines: The models of further passes, by their references.
        manifest: This session's manifest, as of its start and, after `finish`, as of its end.
        ledger: The answers of this and earlier sessions.
        counts_before: Rows by status at the end of the session before, by its manifest.
        state: None until the session ends.
        exit_code: 130 or 143 after a signal.
        statuses: Rows by status; empty until the session ends.
        notes: What the user should know.
        cost: Time and tokens of this session.
        table_change: How the table differs from that of the session before; None if it does not.
    """

    request: SessionRequest
    observer: RunObserver
    folder: Path
    engine: Engine
    pass_engines: Mapping[str, Engine]
    manifest: dict[str, Any]
    ledger: Ledger
    guard: NetworkGuard
    signals: SignalState
    counts_before: Mapping[str, int] = field(default_factory=dict)
    state: SessionState | None = None
    exit_code: int = 0
    statuses: Mapping[Status, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cost: SessionCost = field(default_factory=SessionCost)
    table_change: TableChange | None = None

    def add_note(self, text: str) -> None:
        """Show a note and keep it for the manifest."""
        self.notes.append(text)
        self.observer.on_note(text)

    def answer(self, records: Iterable[Record], method: AnswerMethod = answer_rows) -> None:
        """Answer all records that have no answer in the ledger.

        Args:
            records: The rows in order, starting with row 1.
            method: How they are answered.

        Raises:
            Interrupted: A signal requested the process to stop.
            EngineError: A model cannot answer.
            StorageError: The ledger cannot be written.
        """
        self._report_recovery()
        done = sum(self.count_statuses().values())
        if done:
            self.add_note(
                f"resuming {self.folder}: {done:,} of {self.request.rows:,} rows have an answer"
            )
        self.observer.on_start(self.request.rows, done)
        # Other methods may find out more about complete runs than their answers.
        if done < self.request.rows or method is not answer_rows:
            self._answer_missing(records, done, method)
        self.ledger.flush()
        self._report_batch(done)
        self.observer.on_finish()

    def _answer_missing(self, records: Iterable[Record], done: int, method: AnswerMethod) -> None:
        started, cost = time.monotonic(), self.cost
        task, engines = self.request.task, (self.engine, self.pass_engines)
        with (
            open_cached_ledger(
                self.request.cache, self.ledger, task, engines, self.add_note
            ) as known,
            closing(
                method(task, self.engine, records, known, pass_engines=self.pass_engines)
            ) as answers,
        ):
            for row_answer in answers:
                cost.rows += 1
                cost.cached_rows += known.add(row_answer)
                cost.tokens_read += row_answer.answer.tokens_read
                cost.tokens_reused += row_answer.answer.tokens_reused
                cost.seconds = time.monotonic() - started
                if self.ledger.add(row_answer):
                    self._report_batch(done)
                self.signals.raise_if_caught()

    def count_statuses(self) -> dict[Status, int]:
        """The number of answered rows by status."""
        return self.ledger.count_statuses(self.request.rows)

    def get_elapsed_s(self) -> float:
        """Seconds since the command was started."""
        return time.monotonic() - self.request.started

    def finish(self, **facts: Any) -> dict[str, Any]:
        """End the session.

        Args:
            **facts: Entries to add to the final manifest.

        Returns:
            The final manifest. It is written when the ``with`` block ends without an error.
        """
        self.state = "finished"
        self.manifest = self._describe_end("finished") | facts
        return self.manifest

    def save_final_manifest(self, **facts: Any) -> dict[str, Any]:
        """Write the final manifest, before work that the run does not depend on; see `finish`."""
        manifest = self._describe_end("finished") | facts
        write_manifest(self.folder, manifest)
        return manifest

    def interrupt(self, **facts: Any) -> None:
        """Keep the answers, and record in the manifest that rows are missing."""
        self.state = "interrupted"
        self.ledger.flush()
        write_manifest(self.folder, self._describe_end("interrupted") | facts)

    def _report_recovery(self) -> None:
        """Note the answers of earlier sessions that are not in the ledger any more."""
        # Answers to an earlier form of the table are not among those that the manifest counts.
        kept = sum(self.ledger.count_statuses(FORMER_ROWS - 1).values())
        expected = sum(self.counts_before.values())
        earlier = self.table_change.recovery if self.table_change else None
        recovery = self.ledger.recovery or earlier
        if loss := describe_loss(self.ledger.path, recovery, kept, expected):
            self.add_note(loss.note)
            self.manifest.setdefault("recoveries", []).append({"at": get_timestamp(), **loss.facts})

    def _report_batch(self, done: int) -> None:
        if self.cost.rows and self.cost.first_answer_s is None:
            self.cost.first_answer_s = self.get_elapsed_s()
        self.observer.on_batch(
            done + self.cost.rows, self.cost.tokens_read, self.cost.tokens_reused
        )

    def _describe_end(self, state: SessionState) -> dict[str, Any]:
        self.statuses = self.count_statuses()
        before = self.manifest["egress"]["connections_attempted"]
        return {
            **self.manifest,
            "state": state,
            "finished": get_timestamp(),
            "counts": dict(self.statuses),
            "notes": list(self.notes),
            "timing": sum_timing(
                self.manifest["timing"],
                self.cost.rows - self.cost.cached_rows,
                self.cost.seconds,
                self.get_elapsed_s(),
            ),
            **self._describe_cache(),
            "egress": {
                **self.manifest["egress"],
                "connections_attempted": before + self.guard.attempts,
            },
            **self.request.final_facts,
        }

    def _describe_cache(self) -> dict[str, Any]:
        """The manifest's entry about the cache; empty without one."""
        before = self.manifest.get("cache", {}).get("rows", 0)
        if self.request.cache is None and not before:
            return {}
        file = str(self.request.cache) if self.request.cache else self.manifest["cache"]["file"]
        return {"cache": {"file": file, "rows": before + self.cost.cached_rows}}


@contextmanager
def open_session(
    request: SessionRequest,
    model: Engine | Callable[[], Engine],
    observer: RunObserver | None = None,
) -> Iterator[Session]:
    """Open a session on a run folder and close it at the end of the block.

    A signal ends the ``with`` block without an exception; `Session.state` is then "interrupted".
    After an error the ledger keeps the answers, the manifest records the cause, and the error is
    raised; running out of memory becomes an `EngineError`.

    Args:
        request: The work of the session.
        model: An engine, or a function that loads one; it is called after the folder is checked,
            and its result is closed at the end.
        observer: Receives notes and progress.

    Raises:
        UsageError: The folder holds something else.
        RunLocked: Another process uses the folder.
        RunMismatch: The folder belongs to another task, model or table.
        EngineError: A model cannot be loaded or cannot answer.
        StorageError: The folder cannot be written.
    """
    observer = observer or NullRunObserver()
    for note in request.notes:
        observer.on_note(note)
    with ExitStack() as stack:
        opened = open_session_folder(request, model, stack)
        request = opened.request
        stack.enter_context(restore_batch_size(request.task, opened.engine))
        manifest, counts_before = open_manifest(opened)
        ledger = stack.enter_context(
            closing(Ledger(opened.path / "ledger.db", request.task.outcomes))
        )
        apply_table_change(opened, ledger, manifest)
        session = Session(
            request,
            observer,
            opened.path,
            opened.engine,
            opened.pass_engines,
            manifest,
            guard=stack.enter_context(guard_network(opened.engine, *opened.pass_engines.values())),
            ledger=ledger,
            signals=stack.enter_context(catch_signals()),
            counts_before=counts_before,
            notes=list(request.notes),
            table_change=opened.change,
        )
        for note in (opened.change.describe() if opened.change else "", opened.hint):
            if note:
                session.add_note(note)
        try:
            yield session
            if session.state is None:
                session.finish()
            write_manifest(session.folder, session.manifest)
        except (Interrupted, Exception) as error:
            session.manifest = manifest
            if exit_code := session.signals.find_exit_code(error):
                session.exit_code = exit_code
                session.interrupt()
                return
            with suppress(MedtaskError):  # both fail on a full disk; `error` is the cause to report
                session.interrupt(stopped_by=type(error).__name__)
            if isinstance(error, MemoryError):
                raise EngineError(
                    "this machine ran out of memory",
                    fix=(
                        "use a smaller model or more memory (--memory), then run the same "
                        "command again: it asks only for the missing rows"
                    ),
                ) from error
            raise
