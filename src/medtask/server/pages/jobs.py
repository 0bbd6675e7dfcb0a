"""Pages of jobs: the list, and one job with its log."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from medtask.server.access.requests import Viewer
from medtask.server.access.roles import User
from medtask.server.api.resources import ResourceId, get_row
from medtask.server.database.connect import ReadSession
from medtask.server.jobs.tables import Job, JobLine
from medtask.server.pages.fragments import render_fragment
from medtask.server.pages.job_views import describe_job
from medtask.server.rendering import render_page

router = APIRouter(include_in_schema=False)

MAX_JOBS = 100
MAX_LINES = 200


@router.get("/jobs")
def show_jobs(request: Request, session: ReadSession, user: Viewer) -> Response:
    """The newest jobs."""
    return render_page(request, "jobs.html", _list_jobs(session, user))


@router.get("/jobs/list")
def show_job_list(request: Request, session: ReadSession, user: Viewer) -> Response:
    """The list of jobs alone, which replaces itself while a job runs."""
    return render_page(request, "job_list.html", _list_jobs(session, user))


@router.get("/jobs/{job_id}")
def show_job(request: Request, session: ReadSession, user: Viewer, job_id: ResourceId) -> Response:
    """One job with its log."""
    return render_page(request, "job.html", _read_job(session, user, job_id))


@router.get("/jobs/{job_id}/progress")
def show_job_progress(
    request: Request, session: ReadSession, user: Viewer, job_id: ResourceId
) -> Response:
    """State and log of a job, which replace themselves while it runs."""
    values = _read_job(session, user, job_id)
    return render_fragment(request, "job_progress.html", values, reloads=False)


def _list_jobs(session: ReadSession, user: User) -> dict[str, Any]:
    rows = session.scalars(select(Job).order_by(Job.id.desc()).limit(MAX_JOBS))
    jobs = [describe_job(job, user) for job in rows]
    return {"jobs": jobs, "are_running": any(not job.has_ended for job in jobs)}


def _read_job(session: ReadSession, user: User, job_id: int) -> dict[str, Any]:
    job = get_row(session, Job, job_id, "job")
    newest = select(JobLine).where(JobLine.job_id == job_id).order_by(JobLine.id.desc())
    lines = list(session.scalars(newest.limit(MAX_LINES)))[::-1]
    return {"job": describe_job(job, user), "lines": lines}
