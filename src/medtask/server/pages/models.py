"""Pages of models: the list, creating one, and its training with a live loss curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from markupsafe import Markup
from sqlalchemy import func, select

from medtask.engines.model_metadata import find_trained_engine
from medtask.errors import MedtaskError
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.exporting.targets import TARGETS, TargetName
from medtask.server.api.calls import TrainerReads, UserCall, ViewerReads
from medtask.server.api.models import describe_model, list_models, was_stopped
from medtask.server.api.resources import ResourceId
from medtask.server.pages.job_views import find_job
from medtask.server.pages.lookups import BASES, find_dataset, list_datasets, list_tasks
from medtask.server.storage.tables import StoredModel, StoredTask
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
# Other targets than these send the model elsewhere, or need a store.
_EXPORT_TITLES: Mapping[TargetName, str] = {
    "gguf": "llama.cpp (GGUF)",
    "ollama": "Ollama",
    "merged": "transformers, merged",
    "mlx": "mlx-lm",
    "onnx": "onnxruntime",
}


@router.get("/models")
def show_models(call: ViewerReads) -> Response:
    """The list of models."""
    tasks = {task.id: task.name for task in list_tasks(call.session)}
    values = {"models": list_models(call), "task_names": tasks, "has_tasks": bool(tasks)}
    return call.render("models.html", values)


@router.get("/models/new")
def show_new_model(
    call: TrainerReads, task_id: int | None = None, dataset_id: int | None = None
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
        "tasks": list_tasks(call.session),
        "datasets": list_datasets(call.session),
        "task_id": task_id,
        "dataset_id": dataset_id,
        "methods": methods,
        "trained_methods": " ".join(trained),
        "based_methods": " ".join(["", *based]),
        "bases": BASES,
        "suggested_name": _suggest_name(call),
    }
    return call.render("model_new.html", values)


@router.get("/models/{model_id}")
def show_model(call: ViewerReads, model_id: ResourceId) -> Response:
    """One model: what it is, how good it is, and its training."""
    row = call.get(StoredModel, model_id)
    folder = call.files.get_folder("models", model_id)
    view = describe_model(call.session, row)
    values = {
        "model": view,
        "task": call.get(StoredTask, row.task_id),
        "dataset": find_dataset(call.session, row),
        "task_gold": _find_gold_column(call, row.task_id),
        "has_card": (folder / CARD_FILE).is_file(),
        "exports": _list_exports(folder) if view.state == "ready" else [],
        "results": [_describe_result(one) for one in (row.result or {}).get("tasks", ())],
        "was_stopped": was_stopped(row),
        **_read_training(call, row),
    }
    return call.render("model.html", values)


@router.get("/models/{model_id}/training")
def show_training(call: ViewerReads, model_id: ResourceId) -> Response:
    """The progress of a training with its loss curve, which replaces itself."""
    row = call.get(StoredModel, model_id)
    values = {"model": row, **_read_training(call, row)}
    ended = values["job"] is None or values["job"].has_ended
    return call.render("model_training.html", values, reloads=ended)


def _list_exports(folder: Path) -> list[tuple[str, str]]:
    """The targets that a model can be exported to: all of them without a trained folder."""
    engine = find_trained_engine(folder)
    return [
        (name, title)
        for name, title in _EXPORT_TITLES.items()
        if engine is None or engine in TARGETS[name].engines
    ]


def _find_gold_column(call: UserCall, task_id: int) -> str | None:
    try:
        return call.files.load_task(task_id).gold_column
    except MedtaskError:
        return None


def _suggest_name(call: UserCall) -> str:
    return f"Model {(call.session.scalar(select(func.max(StoredModel.id))) or 0) + 1}"


def _describe_result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": result["task"],
        "measure": get_metric_title(result["measure"]),
        "metrics": [
            (get_metric_title(name), value) for name, value in result["metrics"].items() if value
        ],
        "baselines": list(result["rivals"].items()),
    }


def _read_training(call: UserCall, model: StoredModel) -> dict[str, Any]:
    file = call.files.get_folder("models", model.id) / LOSS_FILE
    losses, scores = _draw_curves(file, searches=model.method == "linear")
    return {"job": find_job(call, model), "losses": losses, "scores": scores}


def _draw_curves(file: Path, *, searches: bool) -> tuple[Markup | None, Markup | None]:
    """The curves of the losses and of the scores, as far as they have been measured.

    A method that ``searches`` measures other settings at each step, on rows of its training.
    """
    if not file.exists():
        return None, None
    try:
        points = read_points(file)
    except MedtaskError:  # the last line is being written
        return None, None
    if not points:
        return None, None
    rows = "held-out rows" if searches else "the validation rows"
    has_scores = any(point.score is not None for point in points)
    return draw_losses(points, rows), draw_scores(points, rows=rows) if has_scores else None
