"""Routes of runs: start, resume, result, answers, report and deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import Trainer, Viewer
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.report_pages import send_report
from medtask.server.api.resources import (
    GivenId,
    IdField,
    PrintableText,
    ResourceId,
    get_files,
    get_row,
    refuse_active_job,
    start_job,
)
from medtask.server.api.run_views import RunView, describe_run, require_answers
from medtask.server.database.connect import ReadSession, WriteSession, get_database
from medtask.server.jobs.kind import find_model_reference
from medtask.server.jobs.queue import list_comparisons
from medtask.server.jobs.tables import Job
from medtask.server.problems import Conflict, NotFound, NotValid
from medtask.server.storage.answers import read_answers
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask
from medtask.server.storage.task_files import check_model_reference

router = APIRouter(prefix="/api/runs", tags=["runs"])

AnswerFormat = Literal["csv", "parquet", "xlsx", "jsonl"]
REPORT_FILE = "report.html"
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/jsonl",
}


class NewRun(BaseModel):
    """A run to start: a task over a data set, with a model of this server or a reference."""

    model_config = ConfigDict(protected_namespaces=())

    task_id: IdField | None = None
    dataset_id: IdField
    model_id: IdField | None = None
    model: PrintableText | None = None
    name: PrintableText | None = None
    limit: int | None = Field(default=None, ge=1, le=10**9)
    gold: PrintableText | None = None
    cascade: float | None = Field(default=None, gt=0, lt=1)
    max_error_rate: float = Field(default=0.05, ge=0, le=1)
    baselines: bool = True
    calibrated: bool = True


class RunDetails(RunView):
    """A run with the whole result of its job, and its last evaluation."""

    settings: dict[str, Any]
    result: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    has_report: bool
    job: JobView | None


class StartedRun(BaseModel):
    """A run that was added, and the job that answers it."""

    run: RunView
    job: JobView


class AnswerRows(BaseModel):
    """Answers of a run from ``offset`` on: the columns of the table, then those of the answer."""

    columns: list[str]
    rows: list[dict[str, Any]]
    offset: int
    total: int


@router.post("", status_code=202)
def start_run(request: Request, session: WriteSession, user: Trainer, new: NewRun) -> StartedRun:
    """Start a run: a job answers the task for every row of the data set."""
    files = get_files(request)
    dataset = get_row(session, StoredDataset, new.dataset_id, "data set")
    task_id, model = _choose_task_and_model(session, new)
    if new.model_id is not None:
        find_model_reference(session, files, new.model_id)  # it may not be trained yet
    settings = new.model_dump(
        include={"limit", "gold", "cascade", "max_error_rate", "baselines", "calibrated"}
    )
    run = StoredRun(
        name=new.name or f"{dataset.name}, {model}"[:200],
        task_id=task_id,
        dataset_id=dataset.id,
        model_id=new.model_id,
        model=model,
        settings=settings,
        created_by=user.name,
    )
    session.add(run)
    session.flush()
    job = start_job(request, session, user, "run", {"run_id": run.id})
    run.job_id = job.id
    record_action(request, session, "run.create", str(run.id))
    return StartedRun(run=describe_run(session, run), job=describe_job(job))


def _choose_task_and_model(session: Session, new: NewRun) -> tuple[int, str]:
    """The task, and what names the model: a reference, or the name of a stored model."""
    if (new.model_id is None) == (new.model is None):
        raise NotValid("name one model", fix="give either model_id or model, such as minilm")
    if new.model_id is not None:
        model = get_row(session, StoredModel, new.model_id, "model")
        task_id, name = new.task_id or model.task_id, model.name
    else:
        if new.task_id is None:
            raise NotValid("the run has no task", fix="give task_id")
        task_id, name = new.task_id, new.model or ""
        check_model_reference(name)
    get_row(session, StoredTask, task_id, "task")
    return task_id, name


@router.get("")
def list_runs(
    session: ReadSession,
    user: Viewer,
    task_id: GivenId | None = None,
    dataset_id: GivenId | None = None,
    model_id: GivenId | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[RunView]:
    """Runs, the newest first."""
    query = select(StoredRun).order_by(StoredRun.id.desc()).limit(limit)
    given = {"task_id": task_id, "dataset_id": dataset_id, "model_id": model_id}
    query = query.filter_by(**{name: value for name, value in given.items() if value is not None})
    return [describe_run(session, run) for run in session.scalars(query)]


@router.get("/{run_id}")
def read_run(
    request: Request, session: ReadSession, user: Viewer, run_id: ResourceId
) -> RunDetails:
    """A run with its result, and its job with the progress."""
    run = get_row(session, StoredRun, run_id, "run")
    job = None if run.job_id is None else session.get(Job, run.job_id)
    return RunDetails(
        **describe_run(session, run).model_dump(),
        settings=run.settings,
        result=run.result,
        evaluation=run.evaluation,
        has_report=(_get_folder(request, run_id) / REPORT_FILE).exists(),
        job=None if job is None else describe_job(job),
    )


@router.post("/{run_id}/resume", status_code=202)
def resume_run(
    request: Request, session: WriteSession, user: Trainer, run_id: ResourceId
) -> JobView:
    """Start a job that answers the rows that have no answer yet, and writes the tables again."""
    run = get_row(session, StoredRun, run_id, "run")
    refuse_active_job(session, run.job_id, "run")
    if run.dataset_id is None:
        raise Conflict("the data set of this run was deleted", fix="start another run")
    job = start_job(request, session, user, "run", {"run_id": run.id})
    run.job_id = job.id
    record_action(request, session, "run.resume", str(run.id))
    return describe_job(job)


@router.get("/{run_id}/answers")
def list_answers(
    request: Request,
    user: Viewer,
    run_id: ResourceId,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    status: Annotated[str | None, Query(max_length=40)] = None,
) -> AnswerRows:
    """Answers of a finished run, with the probabilities of labels."""
    _find_answered(request, run_id)
    return AnswerRows(**read_answers(_get_folder(request, run_id), offset, limit, status))


@router.get("/{run_id}/answers.{suffix}", response_class=FileResponse)
def download_answers(
    request: Request, user: Viewer, run_id: ResourceId, suffix: AnswerFormat
) -> FileResponse:
    """The answers of a finished run as a file."""
    run = _find_answered(request, run_id)
    path = _get_folder(request, run_id) / f"answers.{suffix}"
    if not path.exists():
        raise NotFound(f"run {run_id} has no answers.{suffix}", fix="ask for answers.csv")
    return FileResponse(path, media_type=_MEDIA_TYPES[suffix], filename=f"run-{run.id}.{suffix}")


@router.get("/{run_id}/report", response_class=HTMLResponse)
def read_report(request: Request, user: Viewer, run_id: ResourceId) -> Response:
    """The report of a finished run: a page without scripts and without external addresses."""
    _find_answered(request, run_id)
    return send_report(_get_folder(request, run_id) / REPORT_FILE, f"run {run_id}")


@router.delete("/{run_id}", status_code=204)
def delete_run(request: Request, session: WriteSession, user: Trainer, run_id: ResourceId) -> None:
    """Delete a run with its answers."""
    run = get_row(session, StoredRun, run_id, "run")
    refuse_active_job(session, run.job_id, "run")
    session.delete(run)
    session.flush()
    files = get_files(request)
    files.delete_folder("runs", run_id)
    for job_id in list_comparisons(session, run_id):  # their pages show texts of the run
        files.delete_folder("comparisons", job_id)
    record_action(request, session, "run.delete", str(run_id))


def _get_folder(request: Request, run_id: int) -> Path:
    return get_files(request).get_folder("runs", run_id)


def _find_answered(request: Request, run_id: int) -> StoredRun:
    with get_database(request).read() as session:
        run = get_row(session, StoredRun, run_id, "run")
    require_answers(get_files(request), run)
    return run
