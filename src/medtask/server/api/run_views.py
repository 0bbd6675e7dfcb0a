"""Views of runs that several routers return."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.runs.manifest import read_manifest
from medtask.server.api.jobs import JobState
from medtask.server.jobs.tables import Job
from medtask.server.problems import Conflict
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredRun


class RunView(BaseModel):
    """A run. ``state`` is that of its last job; ``statuses`` has the rows by status."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    name: str
    task_id: int
    dataset_id: int | None
    model_id: int | None
    model: str
    state: JobState | None
    job_id: int | None
    rows: int | None
    statuses: dict[str, int]
    metrics: dict[str, Any]
    created_by: str
    created_at: datetime


def describe_run(session: Session, run: StoredRun) -> RunView:
    """The view of a run."""
    job = None if run.job_id is None else session.get(Job, run.job_id)
    result = run.result or {}
    metrics = (run.evaluation or result).get("metrics") or {}
    return RunView(
        id=run.id,
        name=run.name,
        task_id=run.task_id,
        dataset_id=run.dataset_id,
        model_id=run.model_id,
        model=run.model,
        state=None if job is None else job.state,  # type: ignore[arg-type]
        job_id=run.job_id,
        rows=result.get("rows"),
        statuses=result.get("statuses") or {},
        metrics=metrics,
        created_by=run.created_by,
        created_at=run.created_at,
    )


def require_answers(files: DataFolder, run: StoredRun) -> None:
    """Raise Conflict if a run has no answers yet."""
    folder = files.get_folder("runs", run.id)
    try:
        manifest = read_manifest(folder) if folder.exists() else None
    except InputError:
        manifest = None
    if manifest is None or not (folder / "answers.csv").exists():
        raise Conflict(f"run {run.id} has no answers yet", fix="wait until its job has ended")
