"""A worker: leases jobs from the queue and runs them, one at a time.

`python -m medtask.server.jobs.worker` reads its settings as JSON from the first line of standard
input, and ends when standard input is closed: a worker does not outlive the server that started it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import FrameType

from sqlalchemy.exc import DBAPIError

from medtask.server.database.connect import Database
from medtask.server.jobs.kind import make_job_context
from medtask.server.jobs.queue import DEFAULT_LEASE_S, JobQueue
from medtask.server.jobs.supervisor import Supervisor
from medtask.server.settings import ServerSettings

log = logging.getLogger("medtask.server.jobs")
_IDLE_S = 0.5
_DATABASE_DOWN_S = 2.0


def run_worker(
    settings: ServerSettings, stop: threading.Event, *, lease_s: float = DEFAULT_LEASE_S
) -> None:
    """Run jobs until ``stop`` is set; a job that runs then goes back to the queue.

    A database that does not answer is asked again: the worker outlives its restarts.
    """
    with closing(Database(settings.sqlalchemy_url)) as database:
        queue = JobQueue(database, make_worker_name(), lease_s=lease_s)
        supervisor = Supervisor(queue, make_job_context(settings), stop)
        while not stop.is_set():
            try:
                lease = queue.lease()
                if lease is not None:
                    supervisor.run(lease)
                    continue
            except DBAPIError as error:
                log.warning("the database does not answer: %s", type(error).__name__)
                stop.wait(_DATABASE_DOWN_S)
            stop.wait(_IDLE_S)


def make_worker_name() -> str:
    """The name of this process, as users see it beside a job."""
    return f"{socket.gethostname()}:{os.getpid()}"


def stop_at_signals(stop: threading.Event) -> None:
    """Set ``stop`` at SIGINT and SIGTERM."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def stop_at_end_of_input(stop: threading.Event) -> None:
    """Set ``stop`` when standard input is closed, which happens when the parent process dies."""

    def wait() -> None:
        # Not sys.stdin, whose lock a thread would hold when the interpreter ends.
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop.set()

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run a worker with the settings of the server that started it."""
    settings = parse_settings(sys.stdin.buffer.readline())
    stop = threading.Event()
    stop_at_signals(stop)
    stop_at_end_of_input(stop)
    run_worker(settings, stop)


def settings_to_line(settings: ServerSettings) -> bytes:
    """The settings that a worker needs, as one line of JSON. The URL can hold a password."""
    return (
        json.dumps(
            {
                "data_folder": str(settings.data_folder.absolute()),
                "database_url": settings.sqlalchemy_url,
                "memory_limit_bytes": settings.memory_limit_bytes,
                "allow_remote": settings.allow_remote,
            }
        ).encode()
        + b"\n"
    )


def parse_settings(line: bytes) -> ServerSettings:
    """Read what `settings_to_line` has written."""
    values = json.loads(line)
    return ServerSettings(**{**values, "data_folder": Path(values["data_folder"])})


if __name__ == "__main__":
    main()
