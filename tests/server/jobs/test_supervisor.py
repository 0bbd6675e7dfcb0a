"""The supervision of a job: how its outcome is stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy.orm import Session

from medtask.errors import StorageError
from medtask.server.jobs.kind import JobContext, JobKind, Parameters, make_job_context
from medtask.server.jobs.messages import JobOutcome, MessageReader
from medtask.server.jobs.queue import JobQueue, add_job
from medtask.server.jobs.supervisor import Supervisor
from medtask.server.jobs.tables import Job
from support.server import ServerUnderTest


def fail_to_publish(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    raise StorageError("the disk is full", fix="free some space")


def test_a_result_that_cannot_be_written_ends_the_job_and_not_the_worker(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = JobKind("run", "unused:work", lambda *_: {}, fail_to_publish)
    monkeypatch.setattr("medtask.server.jobs.supervisor.JOB_KINDS", {"run": kind})
    with server.database.write() as session:
        number = add_job(session, "run", {"run_id": 1}).id
    queue = JobQueue(server.database, "one")
    lease = queue.lease()
    assert lease is not None
    reader = MessageReader(outcome=JobOutcome("succeeded", {"rows": 1}))

    supervisor = Supervisor(queue, make_job_context(server.settings), threading.Event())
    supervisor._end(lease, 0, reader)

    with server.database.read() as session:
        job = session.get_one(Job, number)
    assert (job.state, job.problem["detail"]) == ("failed", "the disk is full")
