"""The work of one process on one shard: a session whose rows are those of the shard."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError, RunMismatch, StorageError
from medtask.records import Record
from medtask.runs.manifest import (
    describe_task_and_table,
    format_differences,
    identify_model,
    read_manifest,
)
from medtask.runs.progress import NullRunObserver, RunObserver
from medtask.runs.session import Session, SessionState, open_session
from medtask.runs.session_request import SessionRequest
from medtask.runs.signals import Interrupted
from medtask.scaling.plan import RunPlan
from medtask.scaling.recorded_engine import record_engine
from medtask.scaling.shards import ProgressFileObserver, Shard, ShardAttempt, ShardFolder
from medtask.scaling.slurm_jobs import get_job_id, is_job_running
from medtask.tables.table import Table
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task

MAX_ATTEMPTS = 3  # processes that were killed before they had one new answer


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What a process needs for all shards that it answers.

    Attributes:
        plan: The plan.
        task: The task.
        table: The table.
        model: The model, or a function that loads it.
        pass_engines: The models of further passes, by their references; None to load them.
        force_lock: Whether to take over a shard that is locked by a process on another host.
    """

    plan: RunPlan
    task: Task
    table: Table
    model: Engine | Callable[[], Engine]
    pass_engines: Mapping[str, Engine] | None = None
    force_lock: bool = False


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of one process on one shard.

    Attributes:
        number: The number of the shard.
        state: "finished", or "interrupted" after a signal.
        rows: Rows of the shard.
        new_answers: Rows that were answered by this process.
        exit_code: 0, or 130 or 143 after a signal.
    """

    number: int
    state: SessionState
    rows: int
    new_answers: int
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": self.number,
            "state": self.state,
            "rows": self.rows,
            "asked": self.new_answers,
            "exit_code": self.exit_code,
        }


def answer_shard(work: ShardWork, number: int, observer: RunObserver | None = None) -> ShardResult:
    """Answer the rows of a shard that have no answer, and mark it as complete.

    A complete shard is left as it is.

    Raises:
        RunLocked: Another process works on the shard.
        RunMismatch: This or another shard was answered by another model.
        EngineError: The model cannot answer, or three processes were stopped before an answer.
        StorageError: The folder cannot be written.
    """
    folder = work.plan.get_folder(number)
    if folder.read_done():
        return ShardResult(number, "finished", folder.shard.rows, 0, 0)
    log = _AttemptLog(folder)
    log.refuse_repeated_stops()
    shown = ProgressFileObserver(folder, observer or NullRunObserver())
    try:
        with open_session(
            _build_request(work, folder, log), log.wrap(work.model), shown
        ) as session:
            log.begin()
            _refuse_other_model(work.plan, number, session)
            session.answer(_iter_records(work, folder.shard))
            # Under the lock: without it, the shard would look like one whose process was killed.
            session.finish()
            folder.write_done(_describe_done(session))
            log.end("finished", 0)
    except Interrupted as stop:  # while the model was loaded
        log.end("interrupted", stop.exit_code)
        raise
    except MedtaskError as error:
        log.end("failed", error.exit_code, str(error))
        raise
    except Exception as error:  # its message can have text of records
        log.end("failed", 1, f"a bug: {type(error).__name__}")
        raise
    if session.state != "finished":
        log.end("interrupted", session.exit_code)
    return ShardResult(
        number,
        session.state or "interrupted",
        folder.shard.rows,
        session.cost.rows,
        session.exit_code,
    )


class _AttemptLog:
    """The attempts of a shard, with that of this process, which has the lock of the shard."""

    def __init__(self, folder: ShardFolder) -> None:
        self._folder = folder
        self._attempts = folder.read_attempts()
        self._begun = False

    def refuse_repeated_stops(self) -> None:
        """Raise EngineError if the last processes were all stopped before they had an answer."""
        last = self._attempts[-MAX_ATTEMPTS:]
        size = self._folder.measure_ledger()
        if len(last) < MAX_ATTEMPTS or not all(
            one.ledger_bytes == size
            and (one.state == "running" or (one.state == "interrupted" and one.job))
            for one in last
        ):
            return
        error = EngineError(
            f"{MAX_ATTEMPTS} processes were stopped before they had answered a row of shard "
            f"{self._folder.shard.number}",
            fix="give the job more memory or more time, then submit the run again",
        )
        self.begin()  # as another attempt: the next one is not refused
        self.end("failed", error.exit_code, str(error))
        raise error

    def may_take_over(self) -> bool:
        """Whether the lock of a process on another host is void: its job does not run any more."""
        job = self._attempts[-1].job if self._attempts else ""
        return bool(job) and (job == get_job_id() or not is_job_running(job))

    def wrap(self, model: Engine | Callable[[], Engine]) -> Engine | Callable[[], Engine]:
        """The model; one that is loaded later begins the attempt before that.

        A process that needs too much memory is often killed while it loads the model.
        """
        if isinstance(model, Engine):
            return model

        def load() -> Engine:
            self.begin()
            return model()

        return load

    def begin(self) -> None:
        """Write down that this process works on the shard."""
        if not self._begun:
            self._begun = True
            size = self._folder.measure_ledger()
            self._attempts = self._folder.read_attempts()  # again: the shard is locked only now
            self._attempts.append(ShardAttempt(socket.gethostname(), get_job_id(), size))
            self._folder.write_attempts(self._attempts)

    def end(self, state: str, exit_code: int, error: str = "") -> None:
        """Write down how it ended; nothing if it was never begun, because the shard is locked."""
        if self._begun:
            last = self._attempts[-1]
            self._attempts[-1] = replace(last, state=state, error=error, exit_code=exit_code)
            with suppress(StorageError):  # the error of a full disk is reported by the session
                self._folder.write_attempts(self._attempts)


def _build_request(work: ShardWork, folder: ShardFolder, log: _AttemptLog) -> SessionRequest:
    plan, shard = work.plan, folder.shard
    digest = plan.table.sha256
    return SessionRequest(
        task=work.task,
        data_digest=digest,
        rows=shard.rows,
        identity_facts={"shard": f"{shard.describe()} of {len(plan.shards)}"},
        out=folder.path,
        force_lock=work.force_lock or log.may_take_over(),
        allow_remote=plan.load_options.allow_remote,
        manifest_facts=describe_task_and_table(work.task, work.table, plan.rows, digest),
        pass_engines=work.pass_engines,
        mismatch_fix="submit the run again in another folder (--out)",
    )


def _iter_records(work: ShardWork, shard: Shard) -> Iterator[Record]:
    # A table without ids numbers its rows: those of a shard keep the numbers of the whole table.
    rows = work.table.rows_from(shard.first)
    return islice(read_records(work.task, rows, first_row=shard.first), shard.rows)


def _refuse_other_model(plan: RunPlan, number: int, session: Session) -> None:
    """Raise RunMismatch if another shard was begun with another model."""
    found = identify_model(session.engine, session.pass_engines)
    for other in plan.list_folders():
        if other.shard.number == number or not (manifest := read_manifest(other.path)):
            continue
        known = {
            name: fact for name, fact in manifest["identity"].items() if name.startswith("model.")
        }
        if listed := format_differences(known, found):
            raise RunMismatch(
                f"shard {other.shard.number} is answered by another model than shard "
                f"{number}:{listed}",
                fix="use the same kind of machine, with the same packages, for all shards "
                "(--dtype sets the number format), or submit again in another folder (--out)",
            )
        return


def _describe_done(session: Session) -> dict[str, Any]:
    """The mark of a complete shard: what a merge must know without the model."""
    return {
        "rows": session.request.rows,
        "counts": dict(session.statuses),
        "timing": session.manifest["timing"],
        "egress": session.manifest["egress"],
        "hardware": session.manifest["hardware"],
        "model": record_engine(session.engine),
        "models_of_passes": {
            name: record_engine(one) for name, one in session.pass_engines.items()
        },
    }
