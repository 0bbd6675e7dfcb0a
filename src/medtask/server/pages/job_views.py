"""Jobs as pages show them: state, progress and the page of what a job works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.display import capitalise_first, format_clock
from medtask.server.access.roles import Role, User
from medtask.server.api.calls import UserCall
from medtask.server.jobs.tables import ENDED_STATES, SUCCEEDED, Job
from medtask.server.objects import find_last_job
from medtask.server.review.tables import ReviewQueue
from medtask.server.storage.tables import StoredModel, StoredRun, StoredTask

_TITLES = {
    "train": "Training",
    "evaluate": "Evaluation",
    "compare": "Comparison",
    "review": "Creating the review",
    "tune": "Search",
    "judge": "Judging",
}
_UNITS = {"train": "steps"}
_PAGES = {
    "run_id": ("/runs/{}", "The run"),
    "model_id": ("/models/{}", "The model"),
    "queue_id": ("/reviews#review-{}", "The review"),
}

# A job that names several of them works on the last one.
_SUBJECTS: dict[str, type[StoredTask | StoredModel | StoredRun | ReviewQueue]] = {
    "task_id": StoredTask,
    "model_id": StoredModel,
    "run_id": StoredRun,
    "queue_id": ReviewQueue,
}


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job on a page.

    Attributes:
        phase: What the job does at present.
        total: Rows or steps; 0 if they are unknown.
        remaining: The estimated time until the last row, or "".
        problem: Title, detail and fix of a job that did not succeed.
        page: Address and title of the page of what the job works on.
        lines: What came of it, in sentences.
        downloads: Addresses and names of the files that it wrote.
        may_cancel: Whether the user may stop it.
    """

    id: int
    title: str
    state: str
    phase: str
    done: int
    total: int
    unit: str
    rows_per_s: float
    remaining: str
    problem: Mapping[str, Any] | None
    page: tuple[str, str] | None
    lines: Sequence[str]
    downloads: Sequence[tuple[str, str]]
    may_cancel: bool
    cancel_requested: bool
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    worker: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_STATES


def describe_job(job: Job, user: User) -> JobProgress:
    """A job as the pages show it to a user."""
    progress = job.progress or {}
    done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
    point = progress.get("point") or {}
    rate = float(progress.get("rows_per_s") or 0.0)
    phase = "waiting for a worker" if job.started_at is None else progress.get("phase", "starting")
    epoch = point.get("epoch", 0.0)
    seconds = _estimate_seconds(job, done, total, rate)
    return JobProgress(
        id=job.id,
        title=_TITLES.get(job.kind, capitalise_first(job.kind)),
        state=job.state,
        phase=f"{phase}, epoch {epoch:.2f}" if epoch else phase,
        done=done,
        total=total,
        unit=_UNITS.get(job.kind, "rows"),
        rows_per_s=rate,
        remaining="" if seconds is None else format_clock(seconds),
        problem=job.problem,
        page=_find_page(job),
        lines=(job.result or {}).get("lines", ()),
        downloads=_list_downloads(job),
        may_cancel=user.role >= Role.TRAINER,
        cancel_requested=job.cancel_requested,
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        worker=job.worker,
    )


def find_subjects(session: Session, jobs: Sequence[Job]) -> dict[int, str]:
    """The name of the run, model, review or task that each job works on, by the job's id."""
    subjects: dict[int, str] = {}
    for parameter, table in _SUBJECTS.items():
        ids = {job.id: job.parameters[parameter] for job in jobs if parameter in job.parameters}
        query = select(table.id, table.name).where(table.id.in_(set(ids.values())))
        names = {row.id: row.name for row in session.execute(query)}
        subjects |= {job: names[number] for job, number in ids.items() if number in names}
    return subjects


def find_job(call: UserCall, row: StoredModel | StoredRun | ReviewQueue) -> JobProgress | None:
    """The last job of a model, a run or a review; None if there is none."""
    job = find_last_job(call.session, row)
    return None if job is None else describe_job(job, call.user)


def _estimate_seconds(job: Job, done: int, total: int, rate: float) -> float | None:
    """The time until the last row or step, None if it cannot be estimated."""
    if rate:
        return (total - done) / rate
    point = (job.progress or {}).get("point") or {}
    if done and total and (seconds := point.get("seconds")):
        return float(seconds) / done * (total - done)
    return None


def _find_page(job: Job) -> tuple[str, str] | None:
    if job.kind == "tune":
        return _find_tuned_task(job)
    if "run_ids" in job.parameters:
        return f"/comparisons/{job.id}", "The comparison"
    for name, (address, title) in _PAGES.items():
        if name in job.parameters:
            return address.format(job.parameters[name]), title
    return None


def _find_tuned_task(job: Job) -> tuple[str, str]:
    tuned = (job.result or {}).get("task_id")
    if tuned is None:
        return f"/tasks/{job.parameters['task_id']}", "The task"
    return f"/tasks/{tuned}", "The new task"


def _list_downloads(job: Job) -> list[tuple[str, str]]:
    result = job.result or {}
    if job.state != SUCCEEDED:
        return []
    if job.kind == "audit":
        names = (result["sample"] or {}).get("files", ())
        return [(f"/api/runs/{job.parameters['run_id']}/audit/{name}", name) for name in names]
    if job.kind == "judge":
        name = result["table"]
        return [(f"/api/runs/{job.parameters['run_id']}/judged/{name}", name)]
    if job.kind == "export":
        names = [result["path"]] if "." in result["path"] else []
        names += [f"{result['path']}/{name}" for name in result["files"]] if not names else []
        return [(f"/api/models/exports/{job.id}/files/{name}", name) for name in names]
    return []
