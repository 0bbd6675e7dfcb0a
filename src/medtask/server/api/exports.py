"""Routes of exports: starting one, and downloading its files."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from medtask.server.api.calls import TrainerReads, TrainerWrites, UserCall
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import IdField, PrintableText, ResourceId
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
def export_model(call: TrainerWrites, model_id: ResourceId, wanted: WantedExport) -> JobView:
    """Write a model for another system, and compare the two: a job, whose files can be loaded."""
    model = call.get(StoredModel, model_id)
    call.refuse_active_job(model)
    call.check_model(model_id)
    if wanted.dataset_id is not None:
        call.get(StoredDataset, wanted.dataset_id)
    parameters = {
        "model_id": model_id,
        "task_id": model.task_id,
        "dataset_id": wanted.dataset_id,
        "settings": wanted.model_dump(exclude={"dataset_id"}),
    }
    return describe_job(call.start_job("export", parameters, "model.export", model_id))


@router.get("/exports/{job_id}/files")
def list_exported_files(call: TrainerReads, job_id: ResourceId) -> list[ExportedFile]:
    """The files of an export, by the id of its job."""
    folder, names = _find_files(call, job_id)
    return [ExportedFile(name=name, bytes=(folder / name).stat().st_size) for name in names]


@router.get("/exports/{job_id}/files/{name:path}", response_class=FileResponse)
def download_exported_file(call: TrainerReads, job_id: ResourceId, name: str) -> FileResponse:
    """One file of an export."""
    folder, names = _find_files(call, job_id)
    if name not in names:
        raise NotFound(
            f"export {job_id} has no such file",
            fix=f"list its files: GET /api/models/exports/{job_id}/files",
        )
    return FileResponse(folder / name, filename=FilePath(name).name)


def _find_files(call: UserCall, job_id: int) -> tuple[FilePath, list[str]]:
    """The folder of an export, and the names of its files; those of drafts are left out."""
    call.get(Job, job_id)
    folder = call.files.get_folder("exports", job_id)
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return folder, sorted(
        name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts)
    )
