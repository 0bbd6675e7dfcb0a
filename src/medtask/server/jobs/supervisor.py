"""Supervision of one leased job: starts its process, renews the lease, stores what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from medtask.errors import MedtaskError
from medtask.server.jobs.kind import JobContext
from medtask.server.jobs.kinds import JOB_KINDS
from medtask.server.jobs.messages import (
    BEAT,
    JobRequest,
    MessageReader,
    describe_error,
    make_problem,
)
from medtask.server.jobs.queue import JobQueue, Lease, LeaseLost
from medtask.server.problems import log_unexpected_error, make_unexpected_error

_TICK_S = 0.2  # between two looks at the process and at requests to cancel
_STORE_INTERVAL_S = 1.0
_KILL_AFTER_S = 4.4  # the process ends itself 4 seconds after the signal
_MAX_CRASHES = 3
_LOCKED_DELAY_S = 2.0
_RETRY_SECONDS = 60.0  # of the last write, while the database does not answer
_DATABASE_ERRORS = (DBAPIError,)
# The database answers that a value or a statement is not valid: a later try fails too.
_PERMANENT_ERRORS = (DataError, IntegrityError, ProgrammingError)

T = TypeVar("T")


@dataclass(slots=True)
class Supervisor:
    """Runs leased jobs, one after the other, each in a new process.

    Attributes:
        queue: The queue of the worker.
        context: The folders and limits that jobs use.
        stop: Set when the worker shall end: the job is put back into the queue.
    """

    queue: JobQueue
    context: JobContext
    stop: threading.Event

    def run(self, lease: Lease) -> None:
        """Run a leased job to its end. A lost lease ends its process and is not an error."""
        with suppress(LeaseLost):
            try:
                request = self._make_request(lease)
            except MedtaskError as error:
                self._fail(lease, describe_error(error))
                return
            if request is None:
                return
            with _start_process(request) as (process, reader):
                self._watch(lease, process, reader)
            self._end(lease, process.returncode, reader)

    def _make_request(self, lease: Lease) -> JobRequest | None:
        """The request for the process; None if the job was cancelled or its rows are gone."""
        if self.queue.is_cancelled(lease):
            self._fail(lease, _CANCELLED, cancelled=True)
            return None
        kind = JOB_KINDS[lease.kind]
        with self.queue.database.read() as session:
            arguments = kind.resolve(session, self.context, _get_parameters(lease))
        arguments["is_retry"] = lease.token > 1
        # The process must end before another worker can lease the job.
        return JobRequest(kind.work, arguments, 0.8 * self.queue.lease_s)

    def _watch(self, lease: Lease, process: subprocess.Popen[bytes], reader: MessageReader) -> None:
        """Renew the lease and store progress until the process has ended."""
        renewed, stored, asked_to_stop = time.monotonic(), 0.0, None
        while _is_running(process):
            now = time.monotonic()
            try:
                if now - renewed > self.queue.lease_s / 6:
                    self.queue.renew(lease)
                    renewed = now
                    _send_beat(process)
                if now - stored > _STORE_INTERVAL_S:
                    stored = now
                    self._store(lease, reader)
                stops = self.stop.is_set() or self.queue.is_cancelled(lease)
            except _DATABASE_ERRORS:  # the process ends itself if this lasts as long as the lease
                continue
            if stops and asked_to_stop is None:
                asked_to_stop = now
                process.send_signal(signal.SIGTERM)
            if asked_to_stop is not None and now - asked_to_stop > _KILL_AFTER_S:
                process.kill()

    def _store(self, lease: Lease, reader: MessageReader) -> None:
        progress, lines = self._hide_folder(reader.take())
        if progress is not None or lines:
            self.queue.write_progress(lease, progress, lines)

    def _hide_folder(self, document: T) -> T:
        """JSON values without the path of the data folder, which is not for users."""
        folder = json.dumps(f"{self.context.files.root.absolute()}/")[1:-1]
        hidden: T = json.loads(json.dumps(document, default=str).replace(folder, ""))
        return hidden

    def _end(self, lease: Lease, exit_code: int, reader: MessageReader) -> None:
        """Store the outcome, and publish the result in the same transaction."""
        outcome = reader.outcome
        _retry(lambda: self._store(lease, reader))
        if outcome is not None:
            outcome = replace(
                outcome,
                result=self._hide_folder(outcome.result),
                problem=self._hide_folder(outcome.problem),
            )
        elif exit_code == 0:
            exit_code = 1
        cancelled = _retry(lambda: self.queue.is_cancelled(lease))
        if outcome is not None and outcome.state == "succeeded":
            self._succeed(lease, outcome.result or {})
        elif cancelled and (outcome is None or outcome.state == "interrupted"):
            self._fail(
                lease, _CANCELLED, cancelled=True, result=outcome.result if outcome else None
            )
        elif self.stop.is_set() and (outcome is None or outcome.state == "interrupted"):
            _retry(lambda: self.queue.release(lease))
        elif outcome is not None and outcome.locked:
            _retry(lambda: self.queue.release(lease, delay_s=_LOCKED_DELAY_S))
        elif outcome is not None and outcome.state == "failed":
            self._fail(lease, outcome.problem or {}, result=outcome.result)
        else:
            self._handle_crash(lease, exit_code)

    def _handle_crash(self, lease: Lease, exit_code: int) -> None:
        """Try a job again whose process died, as the kernel ends one that has no memory left."""
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        line = f"the process ended with {how} and without a result"
        _retry(lambda: self.queue.write_progress(lease, None, [line]))
        if _retry(lambda: self.queue.count_crashes(lease)) < _MAX_CRASHES:
            _retry(lambda: self.queue.release(lease, delay_s=_LOCKED_DELAY_S, crashed=True))
            return
        detail = f"the job's process ended {_MAX_CRASHES + 1} times without a result, with {how}"
        fix = (
            "it probably used more memory than there is: choose a smaller model or fewer rows"
            if exit_code == -signal.SIGKILL
            else "see the log of the job, then start it again"
        )
        self._fail(lease, make_problem("Crashed", detail, fix))

    def _succeed(self, lease: Lease, result: Mapping[str, Any]) -> None:
        publish = self._make_publisher(lease, result)
        try:
            _retry(lambda: self.queue.succeed(lease, result, publish))
        except MedtaskError as error:  # such as a full disk
            self._fail(lease, describe_error(error))
        except _PERMANENT_ERRORS as error:
            log_unexpected_error(f"job {lease.job_id}", error)
            self._fail(lease, describe_error(make_unexpected_error()))

    def _fail(
        self,
        lease: Lease,
        problem: Mapping[str, str],
        *,
        cancelled: bool = False,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        publish = self._make_publisher(lease, result)
        try:
            _retry(
                lambda: self.queue.fail(lease, problem, publish, cancelled=cancelled, result=result)
            )
        except (MedtaskError, *_PERMANENT_ERRORS):
            if result is None:
                raise
            self._fail(lease, problem, cancelled=cancelled)  # what there is of a result is lost

    def _make_publisher(
        self, lease: Lease, result: Mapping[str, Any] | None
    ) -> Callable[[Session], Mapping[str, Any] | None]:
        kind = JOB_KINDS[lease.kind]

        def publish(session: Session) -> Mapping[str, Any] | None:
            if result is None:
                return None
            return kind.publish(session, self.context, _get_parameters(lease), result)

        return publish


def _get_parameters(lease: Lease) -> dict[str, Any]:
    return {**lease.parameters, "job_id": lease.job_id}


_CANCELLED = make_problem(
    "Cancelled", "the job was cancelled; what was done before is kept", "start it again to continue"
)


def _retry(write: Callable[[], T]) -> T:
    """Call a function of the queue until the database answers, for a minute at most."""
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            return write()
        except _PERMANENT_ERRORS:
            raise
        except _DATABASE_ERRORS:
            if time.monotonic() > deadline:
                raise LeaseLost from None
            time.sleep(0.5)


@contextmanager
def _start_process(
    request: JobRequest,
) -> Iterator[tuple[subprocess.Popen[bytes], MessageReader]]:
    """Start a job's process; it is killed if the block ends with an error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medtask.server.jobs.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C in a terminal reaches the worker, which stops the job
    )
    assert process.stdin is not None
    assert process.stdout is not None
    reader = MessageReader()
    thread = threading.Thread(
        target=_read_messages, args=(process.stdout.fileno(), reader), daemon=True
    )
    thread.start()
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(request.to_line())
        yield process, reader
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        thread.join(timeout=5)
        process.stdin.close()
        process.stdout.close()


def _read_messages(file: int, reader: MessageReader) -> None:
    while chunk := os.read(file, 65536):
        reader.add(chunk)


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_TICK_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _send_beat(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(BEAT)
