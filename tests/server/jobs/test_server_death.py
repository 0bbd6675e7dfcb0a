"""A server that is killed: its workers end with it, and the next start continues the jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.jobs import (
    add_queued_run,
    check_complete,
    has_progress,
    is_alive,
    wait_for_end,
    wait_until,
)
from support.server import ServerUnderTest

LIMIT_S = 15.0


@contextmanager
def serve(server: ServerUnderTest) -> Iterator[subprocess.Popen[bytes]]:
    """`medtask serve` with one worker, on the database and the data folder of the test."""
    command = [sys.executable, "-m", "medtask", "serve", "--port", "0", "--quiet", "--workers", "1"]
    options = ["--data", str(server.settings.data_folder), "--db", server.settings.sqlalchemy_url]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def list_descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *list_descendants(child)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_killed_server_takes_its_workers_along_and_the_next_one_finishes_the_job(
    server: ServerUnderTest,
) -> None:
    run_id, job_id = add_queued_run(server, "fake:ms_per_row=25,batch=4")
    with serve(server) as process:
        wait_until(server, job_id, has_progress)
        descendants = list_descendants(process.pid)
        assert len(descendants) >= 2  # the worker and the process of the job
        process.kill()
        process.wait()
        deadline = time.monotonic() + LIMIT_S
        while any(map(is_alive, descendants)):
            assert time.monotonic() < deadline, "a worker outlives its server"
            time.sleep(0.05)

    with serve(server):
        job = wait_for_end(server, job_id)

    assert job.worker != f"{os.uname().nodename}:{descendants[0]}"
    check_complete(server, run_id, job_id)
