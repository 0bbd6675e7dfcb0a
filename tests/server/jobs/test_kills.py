"""Jobs survive the death of workers and job processes at any moment, on both databases."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from medtask.server.access.roles import Role
from medtask.server.jobs.tables import Job
from support.jobs import (
    LEASE_S,
    WorkerProcess,
    add_queued_run,
    check_complete,
    end_lease,
    has_progress,
    is_alive,
    read_answers,
    read_job,
    run_one_worker,
    wait_for_end,
    wait_until,
)
from support.postgres import POSTGRES
from support.server import ServerUnderTest, run_server

# What a kill waits for, how often of a hundred kills, and the longest pause after it in seconds.
MOMENTS = {"start": (10, 0.3), "lease": (20, 0.2), "process": (20, 0.6), "answers": (50, 1.5)}


def kill_at_random_points(server: ServerUnderTest, kills: int, seed: int) -> int:
    """Run jobs, and kill the worker or the job's process at random points; returns the kills.

    The points are spread over the work of a worker, not over the time that it waits.
    """
    rng = random.Random(seed)
    done = 0
    while done < kills:
        run_id, job_id = add_queued_run(server)
        while read_job(server, job_id).ended_at is None and done < kills:
            with run_one_worker(server) as worker:  # which is killed at the end
                moment = rng.choices(list(MOMENTS), [often for often, _ in MOMENTS.values()])[0]
                wait_for_moment(server, worker, job_id, moment)
                time.sleep(rng.uniform(0.0, MOMENTS[moment][1]))
                children = worker.list_children()
                if children and rng.random() < 0.3:
                    with suppress(ProcessLookupError):
                        os.kill(children[0], signal.SIGKILL)
                    time.sleep(rng.uniform(0.0, 0.5))
            done += 1
            assert read_job(server, job_id).state in ("queued", "running", "succeeded")
            end_lease(server, job_id)
        with run_one_worker(server):
            wait_for_end(server, job_id)
        check_complete(server, run_id, job_id)
    return done


def wait_for_moment(
    server: ServerUnderTest, worker: WorkerProcess, job_id: int, moment: str
) -> None:
    """Wait until a worker has come so far with a job, or the job has ended."""
    before = read_job(server, job_id)
    answered = (before.progress or {}).get("done", 0)
    reached: dict[str, Callable[[Job], bool]] = {
        "start": lambda job: True,
        "lease": lambda job: job.token > before.token,
        "process": lambda job: bool(worker.list_children()),
        "answers": lambda job: (job.progress or {}).get("done", 0) > answered,
    }
    wait_until(server, job_id, lambda job: job.ended_at is not None or reached[moment](job))


@pytest.mark.slow
def test_a_job_is_finished_although_its_worker_is_killed(server: ServerUnderTest) -> None:
    run_id, job_id = add_queued_run(server)
    with run_one_worker(server) as worker:
        wait_until(server, job_id, has_progress)
        with run_one_worker(server):
            children = worker.list_children()
            worker.kill()
            killed = time.monotonic()
            wait_until(server, job_id, lambda job: job.token > 1)
            assert time.monotonic() - killed < LEASE_S + 10
            # The job's process ends with its worker, so that nobody writes beside the next one.
            assert not any(map(is_alive, children))
            job = wait_for_end(server, job_id)
    assert job.token == 2
    check_complete(server, run_id, job_id)
    # The answers are those of a job that nobody disturbed, byte by byte.
    other_run, other_job = add_queued_run(server)
    with run_one_worker(server):
        wait_for_end(server, other_job)
    assert read_answers(server, run_id) == read_answers(server, other_run)


@pytest.mark.slow
def test_a_suspended_worker_can_write_nothing_once_another_one_has_its_job(
    server: ServerUnderTest,
) -> None:
    run_id, job_id = add_queued_run(server, "fake:ms_per_row=20,batch=4")
    with run_one_worker(server) as suspended:
        wait_until(server, job_id, has_progress)
        os.kill(suspended.pid, signal.SIGSTOP)
        with run_one_worker(server):
            job = wait_until(server, job_id, lambda job: job.token > 1)
            new_worker = job.worker
            os.kill(suspended.pid, signal.SIGCONT)
            job = wait_for_end(server, job_id)
    assert job.worker == new_worker
    check_complete(server, run_id, job_id)


@pytest.mark.slow
def test_a_job_whose_process_dies_again_and_again_fails_and_says_why(
    server: ServerUnderTest,
) -> None:
    _, job_id = add_queued_run(server, "fake:ms_per_row=30,batch=4")
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
    run_id, job_id = add_queued_run(server)
    with run_one_worker(server) as worker:
        wait_until(server, job_id, has_progress)
        worker.process.terminate()
        worker.process.join(timeout=8)
        assert read_job(server, job_id).state == "queued"
    with run_one_worker(server):
        wait_for_end(server, job_id)
    check_complete(server, run_id, job_id)


@pytest.mark.slow
def test_four_kills_at_random_points_lose_and_repeat_nothing(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        assert kill_at_random_points(server, 4, seed=1) == 4


@pytest.mark.scale
@pytest.mark.slow
def test_a_hundred_kills_at_random_points_lose_and_repeat_nothing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    urls = ["", request.getfixturevalue("postgres").create_database() if POSTGRES else ""]
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:  # one waits, the other works
        servers = [
            stack.enter_context(run_server(tmp_path / f"data-{number}", url))
            for number, url in enumerate(urls)
        ]
        kills = threads.map(kill_at_random_points, servers, (50, 50), (2, 3))
        assert sum(kills) == 100


@pytest.mark.slow
def test_two_workers_share_the_jobs_of_a_database(server: ServerUnderTest) -> None:
    added = [add_queued_run(server, "fake:ms_per_row=1") for _ in range(3)]
    with run_one_worker(server), run_one_worker(server):
        jobs = [wait_for_end(server, job_id) for _, job_id in added]
    assert len({job.worker for job in jobs}) == 2
    for run_id, job_id in added:
        check_complete(server, run_id, job_id)


def test_a_viewer_may_look_at_jobs_and_not_cancel_them(server: ServerUnderTest) -> None:
    _, job_id = add_queued_run(server)
    client = server.connect(Role.VIEWER)

    assert client.get(f"/api/jobs/{job_id}").json()["state"] == "queued"
    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 403
