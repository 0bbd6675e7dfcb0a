"""Routes that grade the answers of a run: by another model, or by a labelled sample of them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import Trainer
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import (
    IdField,
    PrintableText,
    ResourceId,
    check_model,
    get_files,
    get_row,
    refuse_active_job,
    start_job,
)
from medtask.server.api.run_views import require_answers
from medtask.server.database.connect import ReadSession, WriteSession
from medtask.server.problems import NotFound
from medtask.server.storage.tables import StoredDataset, StoredRun

router = APIRouter(prefix="/api/runs", tags=["runs"])

JudgementFile = Literal["judgements.csv", "judgements.json", "preferences.csv", "preferences.json"]
SampleFile = Literal["sample.csv", "sample.xlsx"]


class JudgingRequest(BaseModel):
    """Who grades the answers of a run; see `medtask judge`. ``model`` is an id or a reference.

    With ``against``, the id of another run, the answers of both are compared. ``human`` is a column
    with grades by people, by which the error of the judge is measured.
    """

    model_config = ConfigDict(extra="forbid")

    model: IdField | PrintableText
    against: IdField | None = None
    gold: PrintableText | None = None
    human: PrintableText | None = None
    limit: int | None = Field(default=None, ge=1, le=10**9)
    allow_self: bool = False
    max_error_rate: float = Field(default=0.05, ge=0, le=1)


class AuditRequest(BaseModel):
    """How many rows are drawn to be labelled, or the data set that has the labels.

    The data set has the id of each row and its column gold: the filled-in sample, or the gold of a
    review.
    """

    model_config = ConfigDict(extra="forbid")

    budget: int | None = Field(default=None, ge=30, le=10**6)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    labels_dataset_id: IdField | None = None


@router.post("/{run_id}/judge", status_code=202)
def judge_run(
    request: Request,
    session: WriteSession,
    user: Trainer,
    run_id: ResourceId,
    wanted: JudgingRequest,
) -> JobView:
    """Grade free text of a run with another model, or compare it with another run."""
    for one in filter(None, (run_id, wanted.against)):
        run = get_row(session, StoredRun, one, "run")
        refuse_active_job(session, run.job_id, "run")
        require_answers(get_files(request), run)
    check_model(request, session, wanted.model)
    settings = wanted.model_dump(exclude={"model", "against"})
    parameters = {
        "run_id": run_id,
        "model": wanted.model,
        "against": wanted.against,
        "settings": settings,
    }
    job = start_job(request, session, user, "judge", parameters)
    record_action(request, session, "run.judge", str(run_id))
    return describe_job(job)


@router.post("/{run_id}/audit", status_code=202)
def audit_run(
    request: Request,
    session: WriteSession,
    user: Trainer,
    run_id: ResourceId,
    wanted: AuditRequest | None = None,
) -> JobView:
    """Draw a sample of a run to be labelled; with labels, estimate the accuracy of all rows."""
    asked = wanted or AuditRequest()
    run = get_row(session, StoredRun, run_id, "run")
    refuse_active_job(session, run.job_id, "run")
    require_answers(get_files(request), run)
    if asked.labels_dataset_id is not None:
        get_row(session, StoredDataset, asked.labels_dataset_id, "data set")
    parameters = {
        "run_id": run_id,
        "labels_dataset_id": asked.labels_dataset_id,
        "settings": asked.model_dump(include={"budget", "seed"}),
    }
    job = start_job(request, session, user, "audit", parameters)
    record_action(request, session, "run.audit", str(run_id))
    return describe_job(job)


@router.get("/{run_id}/judged/{name}", response_class=FileResponse)
def download_judgements(
    request: Request, session: ReadSession, user: Trainer, run_id: ResourceId, name: JudgementFile
) -> FileResponse:
    """The judgements of a run with their reasons, or their metrics."""
    return _send(request, session, run_id, name)


@router.get("/{run_id}/audit/{name}", response_class=FileResponse)
def download_sample(
    request: Request, session: ReadSession, user: Trainer, run_id: ResourceId, name: SampleFile
) -> FileResponse:
    """The sample of an audit, to fill in its column gold."""
    return _send(request, session, run_id, f"audit/{name}")


def _send(request: Request, session: ReadSession, run_id: int, name: str) -> FileResponse:
    get_row(session, StoredRun, run_id, "run")
    path = get_files(request).get_folder("runs", run_id) / name
    if not path.is_file():
        raise NotFound(f"run {run_id} has no such file", fix="start a job that writes it")
    return FileResponse(path, filename=f"run-{run_id}-{path.name}")
