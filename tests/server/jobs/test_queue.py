"""The queue of jobs: leases, fencing tokens, cancelling, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from medtask.server.database.connect import Database
from medtask.server.jobs.messages import make_problem
from medtask.server.jobs.queue import (
    JobQueue,
    Lease,
    LeaseLost,
    add_job,
    read_database_time,
    request_cancel,
)
from medtask.server.jobs.tables import Job, JobLine
from support.server import ServerUnderTest


def add_jobs(database: Database, count: int = 1) -> list[int]:
    with database.write() as session:
        return [add_job(session, "run", {"run_id": number}).id for number in range(count)]


def get_job(database: Database, job_id: int) -> Job:
    with database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def expire(database: Database, job_id: int) -> None:
    """Move the end of a lease into the past."""
    with database.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.lease_until = read_database_time(session) - timedelta(seconds=1)


def publish_nothing(session: Session) -> None:
    """Write nothing."""


def lease(queue: JobQueue) -> Lease:
    found = queue.lease()
    assert found is not None
    return found


def test_jobs_are_leased_once_and_in_order(server: ServerUnderTest) -> None:
    first, second = add_jobs(server.database, 2)
    queue = JobQueue(server.database, "one")

    assert [lease(queue).job_id, lease(queue).job_id] == [first, second]
    assert queue.lease() is None


def test_workers_that_ask_at_once_never_get_the_same_job(server: ServerUnderTest) -> None:
    jobs = add_jobs(server.database, 24)

    def take_all(name: str) -> list[int]:
        queue, taken, misses = JobQueue(server.database, name), [], 0
        while misses < 3:
            found = queue.lease()
            if found is None:
                misses += 1
            else:
                taken.append(found.job_id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job for part in pool.map(take_all, "abcd") for job in part]

    assert sorted(taken) == jobs


def test_a_job_is_leased_again_once_its_lease_ran_out(server: ServerUnderTest) -> None:
    (job_id,) = add_jobs(server.database)
    dead, living = JobQueue(server.database, "dead"), JobQueue(server.database, "living")
    before = lease(dead)
    assert living.lease() is None

    expire(server.database, job_id)
    after = lease(living)

    assert (after.job_id, after.token) == (job_id, before.token + 1)
    assert get_job(server.database, job_id).worker == "living"


def test_every_write_with_an_old_token_is_rejected(server: ServerUnderTest) -> None:
    (job_id,) = add_jobs(server.database)
    stopped, living = JobQueue(server.database, "stopped"), JobQueue(server.database, "living")
    old = lease(stopped)
    expire(server.database, job_id)
    new = lease(living)
    problem = make_problem("a", "b", "c")

    for write in (
        lambda: stopped.renew(old),
        lambda: stopped.is_cancelled(old),
        lambda: stopped.write_progress(old, {"done": 1}, ["line"]),
        lambda: stopped.succeed(old, {"rows": 1}, publish_nothing),
        lambda: stopped.fail(old, problem, publish_nothing),
        lambda: stopped.release(old),
    ):
        with pytest.raises(LeaseLost):
            write()

    job = get_job(server.database, job_id)
    assert (job.state, job.token, job.progress, job.result) == ("running", new.token, None, None)
    with server.database.read() as session:
        assert session.query(JobLine).count() == 0


def test_a_result_and_what_is_published_with_it_are_stored_together_or_not_at_all(
    server: ServerUnderTest,
) -> None:
    (job_id,) = add_jobs(server.database)
    queue = JobQueue(server.database, "one")
    leased = lease(queue)

    def fail(session: Session) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        queue.succeed(leased, {"rows": 1}, fail)
    assert get_job(server.database, job_id).state == "running"

    queue.succeed(leased, {"rows": 1}, publish_nothing)
    job = get_job(server.database, job_id)
    assert (job.state, job.result) == ("succeeded", {"rows": 1})
    assert job.ended_at is not None
    with pytest.raises(LeaseLost):
        queue.renew(leased)


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_is_asked(
    server: ServerUnderTest,
) -> None:
    running, queued = add_jobs(server.database, 2)
    queue = JobQueue(server.database, "one")
    leased = lease(queue)

    with server.database.write() as session:
        for job_id in (running, queued):
            job = session.get(Job, job_id)
            assert job is not None
            request_cancel(session, job)

    assert queue.is_cancelled(leased)
    assert get_job(server.database, running).state == "running"
    assert get_job(server.database, queued).state == "cancelled"
    assert queue.lease() is None


def test_a_released_job_waits_before_it_is_leased_again(server: ServerUnderTest) -> None:
    add_jobs(server.database)
    queue = JobQueue(server.database, "one")

    queue.release(lease(queue), delay_s=60, crashed=True)
    assert queue.lease() is None

    again = lease_now(server, queue)
    assert queue.count_crashes(again) == 1
    queue.release(again)
    assert queue.count_crashes(lease(queue)) == 1


def lease_now(server: ServerUnderTest, queue: JobQueue) -> Lease:
    with server.database.write() as session:
        session.query(Job).update({Job.available_at: read_database_time(session)})
    return lease(queue)
