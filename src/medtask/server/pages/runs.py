"""Pages of runs: the list, starting one, its live progress, its results and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from fastapi import APIRouter, Response
from sqlalchemy import select

from medtask.evaluation.kinds.label_blocks import build_confusion_table
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.blocks import ReportBlock
from medtask.evaluation.report.report_numbers import read_report_numbers
from medtask.kinds import KINDS
from medtask.server.api.calls import TrainerReads, ViewerReads
from medtask.server.api.resources import ResourceId, TableFormat
from medtask.server.api.run_views import describe_run
from medtask.server.api.runs import REPORT_FILE
from medtask.server.pages.job_views import find_job
from medtask.server.pages.lookups import (
    BASES,
    find_dataset,
    list_datasets,
    list_tasks,
    list_usable_models,
)
from medtask.server.storage.tables import StoredRun, StoredTask

router = APIRouter(include_in_schema=False)

MAX_RUNS = 500
_DOWNLOADS = tuple(f"answers.{suffix}" for suffix in get_args(TableFormat))


@router.get("/runs")
def show_runs(call: ViewerReads) -> Response:
    """The list of runs."""
    session = call.session
    tasks = {task.id: task.name for task in list_tasks(session)}
    newest = select(StoredRun).order_by(StoredRun.id.desc()).limit(MAX_RUNS)
    values = {
        "runs": [describe_run(session, run) for run in session.scalars(newest)],
        "task_names": tasks,
        "can_start": bool(tasks) and bool(list_datasets(session)),
    }
    return call.render("runs.html", values)


@router.get("/runs/new")
def show_new_run(
    call: TrainerReads,
    task_id: int | None = None,
    dataset_id: int | None = None,
    model_id: int | None = None,
) -> Response:
    """The form to start a run."""
    models = list_usable_models(call.session)
    if model_id is not None and task_id is None:
        task_id = next((one.task_id for one, _ in models if one.id == model_id), None)
    values = {
        "tasks": list_tasks(call.session),
        "datasets": list_datasets(call.session),
        "models": models,
        "task_id": task_id,
        "dataset_id": dataset_id,
        "model_id": model_id,
        "bases": BASES,
    }
    return call.render("run_new.html", values)


@router.get("/runs/{run_id}")
def show_run(call: ViewerReads, run_id: ResourceId) -> Response:
    """One run: its progress, then its results."""
    row = call.get(StoredRun, run_id)
    task = call.get(StoredTask, row.task_id)
    folder = call.files.get_folder("runs", run_id)
    view = describe_run(call.session, row)
    values = {
        "run": view,
        "job": find_job(call, row),
        "task": task,
        "dataset": find_dataset(call.session, row),
        "settings": [
            (name.replace("_", " "), value)
            for name, value in (row.settings or {}).items()
            if value is not None and not isinstance(value, bool)
        ],
        "result": _describe_result(row.result),
        "metrics": [
            (get_metric_title(name), value)
            for name, value in view.metrics.items()
            if value and "value" in value
        ],
        "has_report": (folder / REPORT_FILE).is_file(),
        "files": [
            (name, (folder / name).stat().st_size)
            for name in _DOWNLOADS
            if (folder / name).is_file()
        ],
        "confusion": read_confusion(folder),
        "datasets": list_datasets(call.session),
        "is_free_text": KINDS[task.kind].free_text,
        "bases": BASES,
    }
    return call.render("run.html", values)


@router.get("/runs/{run_id}/progress")
def show_run_progress(call: ViewerReads, run_id: ResourceId) -> Response:
    """The progress of a run, which replaces itself."""
    run = call.get(StoredRun, run_id)
    job = find_job(call, run)
    ended = job is None or job.has_ended
    return call.render("run_progress.html", {"run": run, "job": job}, reloads=ended)


def read_confusion(folder: Path) -> Sequence[ReportBlock]:
    """The confusion matrix of a run, from the numbers of its report; empty without one."""
    gold = read_report_numbers(folder).gold
    if gold is None or not gold.confusion:
        return ()
    classes = [str(name) for name in gold.classes[:-1]]
    counts = np.zeros((len(classes), len(gold.classes)), dtype=np.int64)
    for truth, given, rows in gold.confusion:
        counts[truth, given] = rows
    return build_confusion_table(counts, classes)


def _describe_result(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not result:
        return None
    return {
        "rows": result["rows"],
        "statuses": [
            (name.replace("_", " "), rows) for name, rows in result["statuses"].items() if rows
        ],
        "rows_per_s": result.get("rows_per_s") or 0.0,
        "notes": result.get("notes", ()),
        "left_out": (result.get("gold") or {}).get("left_out") or {},
    }
