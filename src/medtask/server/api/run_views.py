"""Runs and reports as several routers return them."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.runs.manifest import read_manifest
from medtask.server.api.calls import UserCall
from medtask.server.api.jobs import JobState
from medtask.server.objects import find_last_job
from medtask.server.problems import Conflict, NotFound
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredRun

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


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
    job = find_last_job(session, run)
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


def get_answered_run(call: UserCall, run_id: int) -> StoredRun:
    """A run that has answers.

    Raises:
        NotFound: There is no such run.
        Conflict: It has no answers yet.
    """
    run = call.get(StoredRun, run_id)
    require_answers(call.files, run)
    return run


def require_answers(files: DataFolder, run: StoredRun) -> None:
    """Raise Conflict if a run has no answers yet."""
    folder = files.get_folder("runs", run.id)
    try:
        manifest = read_manifest(folder) if folder.exists() else None
    except InputError:
        manifest = None
    if manifest is None or not (folder / "answers.csv").exists():
        raise Conflict(f"run {run.id} has no answers yet", fix="wait until its job has ended")


def send_report(path: Path, name: str) -> HTMLResponse:
    """The report in a file. Raises NotFound if it is not there yet."""
    if not path.exists():
        raise NotFound(f"{name} has no report yet", fix="wait until its job has ended")
    page = path.read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": _write_policy(page)})


def _write_policy(page: str) -> str:
    """A policy that allows the style sheet in the page by its hash, and nothing else."""
    hashes = [
        base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        for style in _STYLE.findall(page)
    ]
    styles = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; style-src {styles}; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'; sandbox allow-popups"
    )
