"""Routes of jobs: list, progress, log, cancel, and events while a job runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from medtask.server.access.requests import Viewer
from medtask.server.api.calls import TrainerWrites, ViewerReads
from medtask.server.api.resources import MAX_ID, ResourceId, get_row
from medtask.server.database.connect import Database, get_database
from medtask.server.jobs.queue import is_ended, request_cancel
from medtask.server.jobs.tables import Job, JobLine
from medtask.server.problems import Conflict

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_EVENT_INTERVAL_S = 0.5
_LINES_PER_EVENT = 200


class JobView(BaseModel):
    """A job. ``progress`` has phase, done and total; ``problem`` says why it did not succeed."""

    id: int
    kind: str
    state: JobState
    parameters: dict[str, Any]
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    worker: str
    cancel_requested: bool
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    problem: dict[str, Any] | None


class LogLine(BaseModel):
    """A line of a job's log; it contains no text of records."""

    id: int
    written_at: datetime
    text: str


class JobLog(BaseModel):
    """Lines of a job's log. ``last_id`` is the value of ``after`` for the next lines."""

    lines: list[LogLine]
    last_id: int


def describe_job(job: Job) -> JobView:
    """The view of a job."""
    return JobView.model_validate(job, from_attributes=True)


@router.get("")
def list_jobs(
    call: ViewerReads,
    state: JobState | None = None,
    kind: str | None = None,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[JobView]:
    """Jobs, the newest first; ``before`` an id for older ones."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind.replace("\0", ""))
    if before is not None:
        query = query.where(Job.id < before)
    return [describe_job(job) for job in call.session.scalars(query)]


@router.get("/{job_id}")
def read_job(call: ViewerReads, job_id: ResourceId) -> JobView:
    """A job with its progress, and its result or problem once it has ended."""
    return describe_job(call.get(Job, job_id))


@router.get("/{job_id}/log")
def read_log(
    call: ViewerReads,
    job_id: ResourceId,
    after: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    tail: bool = False,
) -> JobLog:
    """Lines of the log, from the one after ``after``; with ``tail`` the last ones."""
    call.get(Job, job_id)
    return _read_lines(call.session, job_id, after, limit, tail=tail)


def _read_lines(
    session: Session, job_id: int, after: int, limit: int, *, tail: bool = False
) -> JobLog:
    order = JobLine.id.desc() if tail else JobLine.id
    found = session.scalars(
        select(JobLine)
        .where(JobLine.job_id == job_id, JobLine.id > after)
        .order_by(order)
        .limit(limit)
    )
    lines = sorted(
        (LogLine.model_validate(line, from_attributes=True) for line in found),
        key=lambda line: line.id,
    )
    return JobLog(lines=lines, last_id=lines[-1].id if lines else after)


@router.post("/{job_id}/cancel")
def cancel_job(call: TrainerWrites, job_id: ResourceId) -> JobView:
    """Cancel a job. A running one ends within 5 seconds, and what it did is kept."""
    job = call.get(Job, job_id)
    request_cancel(call.session, job)
    call.record("job.cancel", job_id)
    return describe_job(job)


def _require_job(call: ViewerReads, job_id: ResourceId) -> None:
    """A missing job is a problem before the first event is sent."""
    call.get(Job, job_id)


@router.get(
    "/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(_require_job)]
)
async def follow_job(
    request: Request,
    user: Viewer,
    job_id: ResourceId,
    last_event_id: Annotated[str, Header()] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Events of a job until it has ended: ``job`` when it changes, ``line`` for its log, ``end``.

    Ids of events are those of log lines, so that a client that connects again gets no line twice.
    """
    database = get_database(request)
    after = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    before: JobView | None = None
    while True:
        job, log = await run_in_threadpool(_look, database, job_id, after)
        for line in log.lines:
            after = line.id
            yield ServerSentEvent(event="line", id=str(line.id), data=line)
        if job != before:
            before = job
            yield ServerSentEvent(event="job", data=job)
        if job.ended_at is not None and len(log.lines) < _LINES_PER_EVENT:
            yield ServerSentEvent(event="end", data=job.state)
            return
        await anyio.sleep(_EVENT_INTERVAL_S)


def _look(database: Database, job_id: int, after: int) -> tuple[JobView, JobLog]:
    with database.read() as session:
        job = get_row(session, Job, job_id)
        return describe_job(job), _read_lines(session, job_id, after, _LINES_PER_EVENT)


@router.delete("/{job_id}", status_code=204)
def delete_job(call: TrainerWrites, job_id: ResourceId) -> None:
    """Delete a job that has ended, with its log, and with the page or files that only it has."""
    job = call.get(Job, job_id)
    if not is_ended(job):
        raise Conflict(
            "the job has not ended", fix=f"cancel it first: POST /api/jobs/{job_id}/cancel"
        )
    call.delete(job)
