"""The process of one job: `python -m medtask.server.jobs.process`, started by a worker."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from medtask.errors import MedtaskError, RunLocked
from medtask.runs.signals import Interrupted, SignalState, limit_shutdown
from medtask.server.jobs.messages import (
    JobChannel,
    JobOutcome,
    JobRequest,
    describe_error,
    make_problem,
)
from medtask.server.jobs.observer import JobObserver

ABANDONED_EXIT_CODE = 75  # EX_TEMPFAIL


def main() -> int:
    """Read the request from standard input, do the work, and write the outcome."""
    channel = JobChannel(_take_over_stdout())
    request_line, rest = _read_request(0)
    request = JobRequest(**json.loads(request_line))
    threading.Thread(
        target=_follow_worker, args=(0, request.silence_limit_s, rest), daemon=True
    ).start()
    with limit_shutdown() as signals:
        outcome = run_job(request, channel, signals)
    channel.send_outcome(outcome)
    return 0


def _take_over_stdout() -> int:
    """Return the pipe to the worker; what libraries print can be record text and is dropped."""
    channel = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return channel


def _read_request(file: int) -> tuple[bytes, bytes]:
    data = b""
    while b"\n" not in data:
        chunk = os.read(file, 65536)
        if not chunk:
            _abandon()
        data += chunk
    line, _, rest = data.partition(b"\n")
    return line, rest


def _follow_worker(file: int, silence_limit_s: float, rest: bytes) -> None:
    """End the process when the worker has died, or has not renewed its lease in time.

    Another worker may then have the job, so nothing more may be written to its folder.
    """
    while select.select([file], [], [], silence_limit_s)[0]:
        if not os.read(file, 65536):
            _abandon()
    _abandon()


def _abandon() -> NoReturn:
    os._exit(ABANDONED_EXIT_CODE)


def run_job(request: JobRequest, channel: JobChannel, signals: SignalState) -> JobOutcome:
    """Call the function of a job. Every way to end is an outcome."""
    module, _, name = request.work.partition(":")
    work: Callable[..., JobOutcome] = getattr(import_module(module), name)
    try:
        signals.raise_if_caught()
        return work(request.arguments, JobObserver(channel))
    except Interrupted:
        return JobOutcome("interrupted")
    except MedtaskError as error:
        problem = describe_error(error)
        return JobOutcome("failed", problem=problem, locked=isinstance(error, RunLocked))
    except BaseException as error:
        if signals.find_exit_code(error):  # libraries turn a signal into other errors
            return JobOutcome("interrupted")
        for line in _describe_crash(error):
            channel.send_line(line)
        return JobOutcome("failed", problem=_describe_bug(error))


def _describe_bug(error: BaseException) -> dict[str, str]:
    if isinstance(error, MemoryError):
        return make_problem(
            "Out of memory",
            "the job needs more memory than this machine has",
            "use a smaller model, fewer rows, or a machine with more memory",
        )
    return make_problem(
        "Internal error",
        f"{type(error).__name__}: see the job's log for the place in the code",
        "report it with the log of the job, which contains no text of records",
    )


def _describe_crash(error: BaseException) -> list[str]:
    """The places of a traceback. Messages of exceptions are left out: they can be record text."""
    frames = traceback.extract_tb(error.__traceback__)
    return [
        *(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames),
        type(error).__name__,
    ]


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the worker has died
        sys.exit(main())
