"""Jobs survive the death of workers, servers and job processes at any moment, on both databases."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from medtask.server.access.roles import Role
from medtask.server.jobs.queue import add_job
from medtask.server.jobs.tables import Job
from medtask.server.jobs.worker import settings_to_line
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredRun, StoredTask
from support.server import ServerUnderTest

ROWS = 300
LEASE_S = 3.0
TASK = """\
name: colours
instruction: Which colour?
input: "{{ text }}"
id: id
answer: {kind: label, labels: [red, green, blue]}
"""
_WORKER = """\
import sys, threading
from medtask.server.jobs import worker
stop = threading.Event()
worker.stop_at_signals(stop)
settings = worker.parse_settings(sys.stdin.buffer.readline())
worker.stop_at_end_of_input(stop)
worker.run_worker(settings, stop, lease_s=float(sys.argv[1]))
"""


@dataclass
class WorkerProcess:
    """A worker in a process, with a short lease."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def list_children(self) -> list[int]:
        """The job processes of this worker."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [int(number) for number in path.read_text().split()]
        return []


def start_worker(server: ServerUnderTest) -> WorkerProcess:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(LEASE_S)], stdin=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    process.stdin.write(settings_to_line(server.settings))
    return WorkerProcess(process)


@contextmanager
def run_one_worker(server: ServerUnderTest) -> Iterator[WorkerProcess]:
    worker = start_worker(server)
    try:
        yield worker
    finally:
        worker.kill()


def add_run(server: ServerUnderTest, model: str = "fake:ms_per_row=8,batch=4") -> tuple[int, int]:
    """Add a run over `ROWS` rows; returns the ids of the run and its job."""
    files = DataFolder(server.settings.data_folder)
    with server.database.write() as session:
        dataset = StoredDataset(
            name="colours",
            file_name="rows.csv",
            bytes=0,
            sha256="",
            rows=ROWS,
            columns=["id", "text"],
            notes=[],
            read_options={},
        )
        task = StoredTask(name="colours", kind="label", fingerprint="")
        session.add_all([dataset, task])
        session.flush()
        rows = "".join(f"{number},text {number}\n" for number in range(ROWS))
        (files.create_folder("datasets", dataset.id) / "rows.csv").write_text(f"id,text\n{rows}")
        files.create_folder("tasks", task.id)
        files.get_task_file(task.id).write_text(TASK)
        run = StoredRun(
            name="run",
            task_id=task.id,
            dataset_id=dataset.id,
            model=model,
            settings={"baselines": False},
        )
        session.add(run)
        session.flush()
        job = add_job(session, "run", {"run_id": run.id})
        run.job_id = job.id
        return run.id, job.id


def read_job(server: ServerUnderTest, job_id: int) -> Job:
    with server.database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def wait_for_end(server: ServerUnderTest, job_id: int, limit_s: float = 90) -> Job:
    return wait_until(server, job_id, lambda job: job.ended_at is not None, limit_s)


def wait_until(server: ServerUnderTest, job_id: int, reached, limit_s: float = 60) -> Job:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + limit_s
    while True:
        job = read_job(server, job_id)
        if reached(job):
            return job
        assert time.monotonic() < deadline, (job.state, job.progress, job.problem)
        time.sleep(0.05)


def has_progress(job: Job) -> bool:
    return bool((job.progress or {}).get("done"))


def read_answers(server: ServerUnderTest, run_id: int) -> str:
    folder = server.settings.data_folder / "runs" / str(run_id)
    return (folder / "answers.csv").read_text("utf-8")


def check_complete(server: ServerUnderTest, run_id: int, job_id: int) -> None:
    """Every row has exactly one answer, and the run's row has the result of the job."""
    lines = read_answers(server, run_id).splitlines()
    assert len(lines) == ROWS + 1
    assert len({line.split(",")[0] for line in lines}) == ROWS + 1
    job = read_job(server, job_id)
    assert (job.state, job.problem) == ("succeeded", None)
    with server.database.read() as session:
        run = session.get(StoredRun, run_id)
        assert run is not None
        assert run.result == job.result


def kill_at_random_points(server: ServerUnderTest, kills: int, seed: int) -> int:
    """Run jobs, and kill the worker or the job's process at random points; returns the kills."""
    rng = random.Random(seed)
    done = 0
    while done < kills:
        run_id, job_id = add_run(server)
        while read_job(server, job_id).ended_at is None and done < kills:
            worker = start_worker(server)
            time.sleep(rng.uniform(0.0, 4.0))
            children = worker.list_children()
            if children and rng.random() < 0.3:
                with suppress(ProcessLookupError):
                    os.kill(children[0], signal.SIGKILL)
                time.sleep(rng.uniform(0.0, 1.0))
            worker.kill()
            done += 1
            job = read_job(server, job_id)
            with server.database.write() as session:
                session.get(Job, job_id, with_for_update=True).crashes = 0  # type: ignore[union-attr]
            assert job.state in ("queued", "running", "succeeded")
        with run_one_worker(server):
            wait_for_end(server, job_id)
        check_complete(server, run_id, job_id)
    return done


@pytest.mark.slow
def test_a_job_is_finished_although_its_worker_is_killed(server: ServerUnderTest) -> None:
    run_id, job_id = add_run(server)
    with run_one_worker(server) as worker:
        wait_until(server, job_id, has_progress)
        children = worker.list_children()
        worker.kill()
        killed = time.monotonic()
        # The job's process ends with its worker, so that nobody writes beside the next one.
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() - killed < LEASE_S + 5
            time.sleep(0.05)
    with run_one_worker(server):
        job = wait_until(server, job_id, lambda job: job.token > 1)
        assert time.monotonic() - killed < LEASE_S + 30  # 10 seconds on a machine that is free
        job = wait_for_end(server, job_id)
    assert job.token == 2
    check_complete(server, run_id, job_id)


@pytest.mark.slow
def test_a_suspended_worker_can_write_nothing_once_another_one_has_its_job(
    server: ServerUnderTest,
) -> None:
    run_id, job_id = add_run(server, "fake:ms_per_row=30,batch=4")
    with run_one_worker(server) as suspended:
        wait_until(server, job_id, has_progress)
        os.kill(suspended.process.pid, signal.SIGSTOP)
        with run_one_worker(server):
            job = wait_until(server, job_id, lambda job: job.token > 1)
            new_worker = job.worker
            os.kill(suspended.process.pid, signal.SIGCONT)
            job = wait_for_end(server, job_id)
    assert job.worker == new_worker
    check_complete(server, run_id, job_id)


@pytest.mark.slow
def test_a_job_whose_process_dies_again_and_again_fails_and_says_why(
    server: ServerUnderTest,
) -> None:
    _, job_id = add_run(server, "fake:ms_per_row=30,batch=4")
    with run_one_worker(server) as worker:
        deadline = time.monotonic() + 90
        while read_job(server, job_id).ended_at is None:
            assert time.monotonic() < deadline
            for child in worker.list_children():
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
    job = read_job(server, job_id)
    assert job.state == "failed"
    assert job.problem is not None
    assert "signal 9" in job.problem["detail"]
    assert "memory" in job.problem["fix"]


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_puts_its_job_back(server: ServerUnderTest) -> None:
    run_id, job_id = add_run(server)
    with run_one_worker(server) as worker:
        wait_until(server, job_id, has_progress)
        worker.process.terminate()
        worker.process.wait(timeout=8)
        assert read_job(server, job_id).state == "queued"
    with run_one_worker(server):
        wait_for_end(server, job_id)
    check_complete(server, run_id, job_id)


@pytest.mark.slow
def test_twenty_kills_at_random_points_lose_and_repeat_nothing(tmp_path: Path) -> None:
    from support.server import run_server

    with run_server(tmp_path / "data") as server:
        assert kill_at_random_points(server, 20, seed=1) == 20


@pytest.mark.scale
@pytest.mark.slow
def test_a_hundred_kills_at_random_points_lose_and_repeat_nothing(
    server: ServerUnderTest,
) -> None:
    assert kill_at_random_points(server, 50, seed=2) == 50  # on each of both databases


@pytest.mark.slow
def test_two_workers_share_the_jobs_of_a_database(server: ServerUnderTest) -> None:
    added = [add_run(server, "fake:ms_per_row=1") for _ in range(3)]
    with run_one_worker(server), run_one_worker(server):
        jobs = [wait_for_end(server, job_id) for _, job_id in added]
    assert len({job.worker for job in jobs}) == 2
    for run_id, job_id in added:
        check_complete(server, run_id, job_id)


def test_a_viewer_may_look_at_jobs_and_not_cancel_them(server: ServerUnderTest) -> None:
    _, job_id = add_run(server)
    client = server.connect(Role.VIEWER)

    assert client.get(f"/api/jobs/{job_id}").json()["state"] == "queued"
    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 403
