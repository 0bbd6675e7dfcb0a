"""What the routes of several resources share: types of values, and looking up rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query, Request
from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.server.access.roles import User
from medtask.server.database.base import Base
from medtask.server.database.connect import get_database
from medtask.server.jobs.kind import find_model_reference
from medtask.server.jobs.queue import add_job
from medtask.server.jobs.tables import ENDED_STATES, QUEUED, Job
from medtask.server.problems import Conflict, NotFound, TooManyRequests
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel, StoredRun, StoredTask
from medtask.server.storage.task_files import check_model_reference
from medtask.tasks.task import Task

MAX_ID = 2**31 - 1
ResourceId = Annotated[int, Path(ge=1, le=MAX_ID)]
GivenId = Annotated[int, Query(ge=1, le=MAX_ID)]
IdField = Annotated[int, Field(ge=1, le=MAX_ID)]
Row = TypeVar("Row", bound=Base)


def _refuse_control_characters(text: str) -> str:
    # PostgreSQL cannot store NUL, and names are shown in one line.
    if not text.isprintable():
        raise ValueError("contains characters that cannot be printed")
    return text


PrintableText = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_refuse_control_characters),
]


def get_files(request: Request) -> DataFolder:
    """The data folder of the server."""
    return DataFolder(request.app.state.settings.data_folder)


def get_row(session: Session, table: type[Row], number: int, name: str) -> Row:
    """The row with an id.

    Raises:
        NotFound: There is none.
    """
    row = session.get(table, number)
    if row is None:
        raise NotFound(
            f"there is no {name} {number}", fix=f"list what there is: GET {_paths[name]}"
        )
    return row


_paths = {
    "data set": "/api/datasets",
    "task": "/api/tasks",
    "model": "/api/models",
    "run": "/api/runs",
    "job": "/api/jobs",
}


def load_stored_task(request: Request, task_id: int) -> Task:
    """A stored task. Raises NotFound if there is none."""
    with get_database(request).read() as session:
        get_row(session, StoredTask, task_id, "task")
    return get_files(request).load_task(task_id)


def check_model(request: Request, session: Session, model: int | str) -> None:
    """Raise NotFound, InputError or UsageError if a model cannot be used by a job."""
    if isinstance(model, int):
        get_row(session, StoredModel, model, "model")
        find_model_reference(session, get_files(request), model)
    else:
        check_model_reference(model)


def start_job(
    request: Request, session: Session, user: User, kind: str, parameters: Mapping[str, Any]
) -> Job:
    """Add a job to the queue.

    Raises:
        TooManyRequests: The user has as many waiting jobs as the server allows.
    """
    settings: ServerSettings = request.app.state.settings
    waiting = session.scalars(
        select(func.count()).where(Job.state == QUEUED, Job.created_by == user.name)
    ).one()
    if waiting >= settings.limits.queue_length:
        raise TooManyRequests(
            f"{waiting} of your jobs wait already",
            fix="wait until some have ended, or cancel them: GET /api/jobs?state=queued",
            retry_after_s=60,
        )
    return add_job(session, kind, parameters, created_by=user.name)


def refuse_active_job(session: Session, job_id: int | None, name: str) -> None:
    """Raise Conflict if a job of an object has not ended."""
    job = None if job_id is None else session.get(Job, job_id)
    if job is not None and job.state not in ENDED_STATES:
        raise Conflict(
            f"job {job.id} works on this {name}",
            fix=f"wait until it has ended, or cancel it: POST /api/jobs/{job.id}/cancel",
        )


def refuse_active_jobs(session: Session, **columns: int) -> None:
    """Raise Conflict if a model or run with these columns has a job that has not ended."""
    for table in (StoredModel, StoredRun):
        jobs = session.scalars(select(table.job_id).filter_by(**columns))
        for job_id in jobs:
            refuse_active_job(session, job_id, "object")
