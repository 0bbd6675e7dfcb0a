"""Routes that grade the answers of a run: by another model, or by a labelled sample of them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from medtask.server.api.calls import TrainerReads, TrainerWrites, UserCall
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import IdField, ModelName, PrintableText, ResourceId
from medtask.server.api.run_views import get_answered_run
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

    model: ModelName
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
def judge_run(call: TrainerWrites, run_id: ResourceId, wanted: JudgingRequest) -> JobView:
    """Grade free text of a run with another model, or compare it with another run."""
    for one in filter(None, (run_id, wanted.against)):
        call.refuse_active_job(get_answered_run(call, one))
    call.check_model(wanted.model)
    parameters = {
        "run_id": run_id,
        **wanted.model_dump(include={"model", "against"}),
        "settings": wanted.model_dump(exclude={"model", "against"}),
    }
    return describe_job(call.start_job("judge", parameters, "run.judge", run_id))


@router.post("/{run_id}/audit", status_code=202)
def audit_run(
    call: TrainerWrites, run_id: ResourceId, wanted: AuditRequest | None = None
) -> JobView:
    """Draw a sample of a run to be labelled; with labels, estimate the accuracy of all rows."""
    asked = wanted or AuditRequest()
    call.refuse_active_job(get_answered_run(call, run_id))
    if asked.labels_dataset_id is not None:
        call.get(StoredDataset, asked.labels_dataset_id)
    parameters = {
        "run_id": run_id,
        "labels_dataset_id": asked.labels_dataset_id,
        "settings": asked.model_dump(include={"budget", "seed"}),
    }
    return describe_job(call.start_job("audit", parameters, "run.audit", run_id))


@router.get("/{run_id}/judged/{name}", response_class=FileResponse)
def download_judgements(
    call: TrainerReads, run_id: ResourceId, name: JudgementFile
) -> FileResponse:
    """The judgements of a run with their reasons, or their metrics."""
    return _send(call, run_id, name)


@router.get("/{run_id}/audit/{name}", response_class=FileResponse)
def download_sample(call: TrainerReads, run_id: ResourceId, name: SampleFile) -> FileResponse:
    """The sample of an audit, to fill in its column gold."""
    return _send(call, run_id, f"audit/{name}")


def _send(call: UserCall, run_id: int, name: str) -> FileResponse:
    call.get(StoredRun, run_id)
    path = call.files.get_folder("runs", run_id) / name
    if not path.is_file():
        raise NotFound(f"run {run_id} has no such file", fix="start a job that writes it")
    return FileResponse(path, filename=f"run-{run_id}-{path.name}")
