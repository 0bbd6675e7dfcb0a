"""Pages of models: the list, creating one, and its training with a live loss curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from sqlalchemy import select

from medtask.errors import MedtaskError
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.server.access.requests import Viewer
from medtask.server.api.models import describe_model, list_models
from medtask.server.api.resources import ResourceId, get_files, get_row
from medtask.server.database.connect import ReadSession
from medtask.server.pages.fragments import render_fragment
from medtask.server.pages.job_views import JobProgress, find_job
from medtask.server.pages.lookups import BASES, list_datasets, list_tasks
from medtask.server.rendering import render_page
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredTask
from medtask.training.loss_curve import draw_losses, draw_scores
from medtask.training.methods import METHODS, Method
from medtask.training.train import LOSS_FILE
from medtask.training.trained_model import CARD_FILE
from medtask.training.training_log import read_points

router = APIRouter(include_in_schema=False)

# What the form offers, in the order in which a newcomer tries them; the API knows all methods.
_METHOD_TITLES: Mapping[Method, tuple[str, str]] = {
    "linear": ("TF-IDF and a linear classifier", "Learns in seconds, on any machine."),
    "encoder": ("Encoder", "Fine-tunes a small BERT-like model, by default MiniLM. Minutes."),
    "rslora": ("Language model with LoRA", "Fine-tunes an adapter of the base model."),
    "qlora": (
        "Language model with QLoRA",
        "The same with 4-bit weights, on a GPU.",
    ),
    "auto": (
        "The best of several",
        "Trains several methods and keeps the best.",
    ),
}


@router.get("/models")
def show_models(request: Request, session: ReadSession, user: Viewer) -> Response:
    """The list of models."""
    tasks = {task.id: task.name for task in list_tasks(session)}
    values = {"models": list_models(session, user), "task_names": tasks, "has_tasks": bool(tasks)}
    return render_page(request, "models.html", values)


@router.get("/models/new")
def show_new_model(
    request: Request,
    session: ReadSession,
    user: Viewer,
    task_id: int | None = None,
    dataset_id: int | None = None,
) -> Response:
    """The form to create a model."""
    trained = [name for name in _METHOD_TITLES if name in METHODS]
    based = [name for name in trained if METHODS[name].default_base != ""]
    methods: list[dict[str, str]] = [
        {"name": name, "title": _METHOD_TITLES[name][0], "hint": _METHOD_TITLES[name][1]}
        for name in trained
    ]
    methods.append(
        {"name": "", "title": "An open model as it is", "hint": "It answers by the prompt alone."}
    )
    values = {
        "tasks": list_tasks(session),
        "datasets": list_datasets(session),
        "task_id": task_id,
        "dataset_id": dataset_id,
        "methods": methods,
        "trained_methods": " ".join(trained),
        "based_methods": " ".join(["", *based]),
        "bases": BASES,
        "suggested_name": _suggest_name(session),
    }
    return render_page(request, "model_new.html", values)


@router.get("/models/{model_id}")
def show_model(
    request: Request, session: ReadSession, user: Viewer, model_id: ResourceId
) -> Response:
    """One model: what it is, how good it is, and its training."""
    row = get_row(session, StoredModel, model_id, "model")
    job = find_job(session, row.job_id, user)
    task = get_row(session, StoredTask, row.task_id, "task")
    dataset = None if row.dataset_id is None else session.get(StoredDataset, row.dataset_id)
    folder = get_files(request).get_folder("models", model_id)
    values = {
        "model": describe_model(session, row),
        "task": task,
        "dataset": dataset,
        "task_gold": _find_gold_column(request, task.id),
        "has_card": (folder / CARD_FILE).is_file(),
        "results": [_describe_result(one) for one in (row.result or {}).get("tasks", ())],
        **_read_training(request, model_id, job),
    }
    return render_page(request, "model.html", values)


@router.get("/models/{model_id}/training")
def show_training(
    request: Request, session: ReadSession, user: Viewer, model_id: ResourceId
) -> Response:
    """The progress of a training with its loss curve, which replaces itself."""
    row = get_row(session, StoredModel, model_id, "model")
    job = find_job(session, row.job_id, user)
    values = {"model": row, **_read_training(request, model_id, job)}
    ended = job is None or job.has_ended
    return render_fragment(request, "model_training.html", values, reloads=ended)


def _find_gold_column(request: Request, task_id: int) -> str | None:
    try:
        return get_files(request).load_task(task_id).gold_column
    except MedtaskError:
        return None


def _suggest_name(session: ReadSession) -> str:
    newest = session.scalars(select(StoredModel.id).order_by(StoredModel.id.desc()).limit(1))
    return f"Model {(newest.first() or 0) + 1}"


def _describe_result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": result["task"],
        "metrics": [
            (get_metric_title(name), value) for name, value in result["metrics"].items() if value
        ],
        "baselines": list(result["rivals"].items()),
    }


def _read_training(request: Request, model_id: int, job: JobProgress | None) -> dict[str, Any]:
    folder = get_files(request).get_folder("models", model_id)
    losses, scores = _draw_curves(folder / LOSS_FILE)
    return {"job": job, "losses": losses, "scores": scores}


def _draw_curves(file: Path) -> tuple[Markup | None, Markup | None]:
    """The curves of the losses and of the scores, as far as they have been measured."""
    if not file.exists():
        return None, None
    try:
        points = read_points(file)
    except MedtaskError:  # the last line is being written
        return None, None
    if not points:
        return None, None
    has_scores = any(point.score is not None for point in points)
    return draw_losses(points), draw_scores(points) if has_scores else None
