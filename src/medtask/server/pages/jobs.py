"""Pages of jobs: the list, and one job with its log."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select

from medtask.server.api.calls import UserCall, ViewerReads
from medtask.server.api.resources import ResourceId
from medtask.server.jobs.tables import Job, JobLine
from medtask.server.pages.job_views import describe_job, find_subjects

router = APIRouter(include_in_schema=False)

MAX_JOBS = 100
MAX_LINES = 200


@router.get("/jobs")
def show_jobs(call: ViewerReads) -> Response:
    """The newest jobs."""
    return call.render("jobs.html", _list_jobs(call))


@router.get("/jobs/list")
def show_job_list(call: ViewerReads) -> Response:
    """The list of jobs alone, which replaces itself while a job runs."""
    return call.render("job_list.html", _list_jobs(call))


@router.get("/jobs/{job_id}")
def show_job(call: ViewerReads, job_id: ResourceId) -> Response:
    """One job with its log."""
    return call.render("job.html", _read_job(call, job_id))


@router.get("/jobs/{job_id}/progress")
def show_job_progress(call: ViewerReads, job_id: ResourceId) -> Response:
    """State and log of a job, which replace themselves while it runs."""
    return call.render("job_progress.html", _read_job(call, job_id))


def _list_jobs(call: UserCall) -> dict[str, Any]:
    rows = list(call.session.scalars(select(Job).order_by(Job.id.desc()).limit(MAX_JOBS)))
    jobs = [describe_job(job, call.user) for job in rows]
    subjects = find_subjects(call.session, rows)
    running = any(not job.has_ended for job in jobs)
    return {"jobs": jobs, "subjects": subjects, "are_running": running}


def _read_job(call: UserCall, job_id: int) -> dict[str, Any]:
    job = call.get(Job, job_id)
    newest = select(JobLine).where(JobLine.job_id == job_id).order_by(JobLine.id.desc())
    lines = list(call.session.scalars(newest.limit(MAX_LINES)))[::-1]
    return {"job": describe_job(job, call.user), "lines": lines}
