"""Routes of runs: start, resume, result, answers, report and deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from medtask.server.access.requests import Viewer
from medtask.server.api.calls import TrainerWrites, UserCall, ViewerReads
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import (
    MEDIA_TYPES,
    GivenId,
    IdField,
    PrintableText,
    ResourceId,
    TableFormat,
    find_row,
    get_files,
)
from medtask.server.api.run_views import RunView, describe_run, require_answers, send_report
from medtask.server.objects import find_last_job
from medtask.server.problems import Conflict, NotFound, NotValid
from medtask.server.storage.answers import read_answers
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask

router = APIRouter(prefix="/api/runs", tags=["runs"])

REPORT_FILE = "report.html"


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
def start_run(call: TrainerWrites, new: NewRun) -> StartedRun:
    """Start a run: a job answers the task for every row of the data set."""
    dataset = call.get(StoredDataset, new.dataset_id)
    task_id, model = _choose_task_and_model(call, new)
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
        created_by=call.user.name,
    )
    call.session.add(run)
    call.session.flush()
    job = _start(call, run, "run.create")
    return StartedRun(run=describe_run(call.session, run), job=job)


def _start(call: UserCall, run: StoredRun, action: str) -> JobView:
    parameters = {"run_id": run.id, "model": run.model_id or run.model}
    job = call.start_job("run", parameters, action, run.id)
    run.job_id = job.id
    return describe_job(job)


def _choose_task_and_model(call: UserCall, new: NewRun) -> tuple[int, str]:
    """The task, and what names the model: a reference, or the name of a stored model."""
    if (new.model_id is None) == (new.model is None):
        raise NotValid("name one model", fix="give either model_id or model, such as minilm")
    call.check_model(new.model_id or new.model or "")
    if new.model_id is not None:
        model = call.get(StoredModel, new.model_id)
        task_id, name = new.task_id or model.task_id, model.name
    else:
        if new.task_id is None:
            raise NotValid("the run has no task", fix="give task_id")
        task_id, name = new.task_id, new.model or ""
    call.get(StoredTask, task_id)
    return task_id, name


@router.get("")
def list_runs(
    call: ViewerReads,
    task_id: GivenId | None = None,
    dataset_id: GivenId | None = None,
    model_id: GivenId | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[RunView]:
    """Runs, the newest first."""
    query = select(StoredRun).order_by(StoredRun.id.desc()).limit(limit)
    given = {"task_id": task_id, "dataset_id": dataset_id, "model_id": model_id}
    query = query.filter_by(**{name: value for name, value in given.items() if value is not None})
    return [describe_run(call.session, run) for run in call.session.scalars(query)]


@router.get("/{run_id}")
def read_run(call: ViewerReads, run_id: ResourceId) -> RunDetails:
    """A run with its result, and its job with the progress."""
    run = call.get(StoredRun, run_id)
    job = find_last_job(call.session, run)
    return RunDetails(
        **describe_run(call.session, run).model_dump(),
        settings=run.settings,
        result=run.result,
        evaluation=run.evaluation,
        has_report=(call.files.get_folder("runs", run_id) / REPORT_FILE).exists(),
        job=None if job is None else describe_job(job),
    )


@router.post("/{run_id}/resume", status_code=202)
def resume_run(call: TrainerWrites, run_id: ResourceId) -> JobView:
    """Start a job that answers the rows that have no answer yet, and writes the tables again."""
    run = call.get(StoredRun, run_id)
    call.refuse_active_job(run)
    if run.dataset_id is None:
        raise Conflict("the data set of this run was deleted", fix="start another run")
    last = find_last_job(call.session, run)
    if run.model_id is None and last and isinstance(last.parameters.get("model"), int):
        # What is left is its name, which can be the reference of another model.
        raise Conflict("the model of this run was deleted", fix="start another run")
    return _start(call, run, "run.resume")


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
    return AnswerRows(**read_answers(_find_answers(request, run_id), offset, limit, status))


@router.get("/{run_id}/answers.{suffix}", response_class=FileResponse)
def download_answers(
    request: Request, user: Viewer, run_id: ResourceId, suffix: TableFormat
) -> FileResponse:
    """The answers of a finished run as a file."""
    path = _find_answers(request, run_id) / f"answers.{suffix}"
    if not path.exists():
        raise NotFound(f"run {run_id} has no answers.{suffix}", fix="ask for answers.csv")
    return FileResponse(path, media_type=MEDIA_TYPES[suffix], filename=f"run-{run_id}.{suffix}")


@router.get("/{run_id}/report", response_class=HTMLResponse)
def read_report(request: Request, user: Viewer, run_id: ResourceId) -> Response:
    """The report of a finished run: a page without scripts and without external addresses."""
    return send_report(_find_answers(request, run_id) / REPORT_FILE, f"run {run_id}")


@router.delete("/{run_id}", status_code=204)
def delete_run(call: TrainerWrites, run_id: ResourceId) -> None:
    """Delete a run with its answers, and the pages of comparisons with other runs."""
    call.delete(call.get(StoredRun, run_id))


def _find_answers(request: Request, run_id: int) -> Path:
    """The folder of a run that has answers; its files are read without a transaction."""
    files = get_files(request)
    require_answers(files, find_row(request, StoredRun, run_id))
    return files.get_folder("runs", run_id)
