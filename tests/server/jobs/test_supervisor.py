"""The supervision of a job: how its outcome is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from medtask.errors import StorageError
from medtask.server.jobs.kind import JobContext, JobKind, Parameters, make_job_context
from medtask.server.jobs.messages import JobOutcome, MessageReader, make_problem
from medtask.server.jobs.queue import JobQueue, add_job
from medtask.server.jobs.supervisor import Supervisor
from medtask.server.jobs.tables import Job
from support.server import ServerUnderTest


def full_disk(session: Session) -> None:
    raise StorageError("the disk is full", fix="free some space")


def missing_values(session: Session) -> None:
    session.execute(text("INSERT INTO models (id) VALUES (1)"))  # columns that must have a value


STOPPED = JobOutcome("failed", {"rows": 1}, make_problem("Stopped", "the model failed", "retry"))


@pytest.mark.parametrize(
    ("write", "outcome", "detail"),
    [
        (full_disk, JobOutcome("succeeded", {"rows": 1}), "the disk is full"),
        (missing_values, JobOutcome("succeeded", {"rows": 1}), "does not know"),
        (full_disk, STOPPED, "the model failed"),
        (missing_values, STOPPED, "the model failed"),
    ],
)
def test_a_result_that_cannot_be_written_ends_the_job_and_not_the_worker(
    server: ServerUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Session], None],
    outcome: JobOutcome,
    detail: str,
) -> None:
    def publish(
        session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
    ) -> None:
        write(session)

    kind = JobKind("run", "unused:work", lambda *_: {}, publish)
    monkeypatch.setattr("medtask.server.jobs.supervisor.JOB_KINDS", {"run": kind})
    with server.database.write() as session:
        number = add_job(session, "run", {"run_id": 1}).id
    queue = JobQueue(server.database, "one")
    lease = queue.lease()
    assert lease is not None
    reader = MessageReader(outcome=outcome)

    supervisor = Supervisor(queue, make_job_context(server.settings), threading.Event())
    supervisor._end(lease, 0, reader)

    with server.database.read() as session:
        job = session.get_one(Job, number)
    assert job.state == "failed"
    assert job.problem is not None and detail in job.problem["detail"]
