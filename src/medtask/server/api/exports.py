"""Routes of exports: starting one, and downloading its files."""

from __future__ import annotations

from pathlib import Path as FilePath
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
from medtask.server.database.connect import ReadSession, WriteSession
from medtask.server.jobs.tables import Job
from medtask.server.problems import NotFound
from medtask.server.storage.tables import StoredDataset, StoredModel

router = APIRouter(prefix="/api/models", tags=["models"])


class WantedExport(BaseModel):
    """What is written; see `medtask export`. With ``dataset_id`` its prompts are compared."""

    model_config = ConfigDict(extra="forbid")

    to: Literal["merged", "gguf", "ollama", "mlx", "onnx"]
    quant: PrintableText | None = None
    dataset_id: IdField | None = None
    rows: int = Field(default=64, ge=1, le=10_000)
    check: bool = True
    force: bool = False


class ExportedFile(BaseModel):
    """A file of an export."""

    name: str
    bytes: int


@router.post("/{model_id}/export", status_code=202)
def export_model(
    request: Request,
    session: WriteSession,
    user: Trainer,
    model_id: ResourceId,
    wanted: WantedExport,
) -> JobView:
    """Write a model for another system, and compare the two: a job, whose files can be loaded."""
    model = get_row(session, StoredModel, model_id, "model")
    refuse_active_job(session, model.job_id, "model")
    check_model(request, session, model_id)
    if wanted.dataset_id is not None:
        get_row(session, StoredDataset, wanted.dataset_id, "data set")
    parameters = {
        "model_id": model_id,
        "task_id": model.task_id,
        "dataset_id": wanted.dataset_id,
        "settings": wanted.model_dump(exclude={"dataset_id"}),
    }
    job = start_job(request, session, user, "export", parameters)
    record_action(request, session, "model.export", str(model_id))
    return describe_job(job)


@router.get("/exports/{job_id}/files")
def list_exported_files(
    request: Request, session: ReadSession, user: Trainer, job_id: ResourceId
) -> list[ExportedFile]:
    """The files of an export, by the id of its job."""
    get_row(session, Job, job_id, "job")
    folder = get_files(request).get_folder("exports", job_id)
    return [
        ExportedFile(name=name, bytes=(folder / name).stat().st_size) for name in list_files(folder)
    ]


@router.get("/exports/{job_id}/files/{name:path}", response_class=FileResponse)
def download_exported_file(
    request: Request, session: ReadSession, user: Trainer, job_id: ResourceId, name: str
) -> FileResponse:
    """One file of an export."""
    get_row(session, Job, job_id, "job")
    folder = get_files(request).get_folder("exports", job_id)
    if name not in list_files(folder):
        raise NotFound(
            f"export {job_id} has no such file",
            fix=f"list its files: GET /api/models/exports/{job_id}/files",
        )
    return FileResponse(folder / name, filename=FilePath(name).name)


def list_files(folder: FilePath) -> list[str]:
    """The names of the files of an export; those of drafts are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts)
    )
