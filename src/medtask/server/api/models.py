"""Routes of models: create, train, loss curve, metrics side by side, delete."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.server.access.requests import Viewer
from medtask.server.api.calls import TrainerWrites, UserCall, ViewerReads
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.model_types import MODEL_TYPES, ModelType
from medtask.server.api.resources import (
    IdField,
    ModelName,
    PrintableText,
    ResourceId,
    find_row,
    get_files,
)
from medtask.server.jobs.tables import Job
from medtask.server.objects import find_last_job
from medtask.server.problems import Conflict, NotFound, NotValid
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredTask
from medtask.server.storage.task_files import check_model_reference
from medtask.tasks.prompt import find_prompt_columns
from medtask.training.methods import Method

router = APIRouter(prefix="/api/models", tags=["models"])

FAST_VALIDATION_ROWS = 20
MAX_PROMPTED_ROWS = 100  # with which a model that is not trained is measured


class NewModel(BaseModel):
    """A model to create: a base for a task, which is trained, or used as it is without a method.

    ``model_type`` is a name of other systems for method and base, such as "traditional", "biobert",
    "hybrid" and "gemma2-2b". Without a task, the only task whose columns the data set has is taken.
    """

    model_config = ConfigDict(protected_namespaces=())

    name: PrintableText
    task_id: IdField | None = Field(None, validation_alias=AliasChoices("task_id", "task"))
    dataset_id: IdField | None = Field(None, validation_alias=AliasChoices("dataset_id", "dataset"))
    base: ModelName | list[ModelName] | None = None
    method: Method | None = None
    model_type: PrintableText | None = None


class TrainingSettings(BaseModel):
    """Settings of a training; those left out have the defaults of `medtask train`."""

    model_config = ConfigDict(extra="forbid")

    gold: PrintableText | None = None
    epochs: float | None = Field(default=None, gt=0, le=1000)
    rate: float | None = Field(default=None, gt=0, le=1)
    batch: int | None = Field(default=None, ge=1, le=4096)
    rank: int | None = Field(default=None, ge=1, le=1024)
    alpha: float | None = Field(default=None, gt=0, le=4096)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1, le=1000)
    row_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    injections: float | None = Field(default=None, ge=0, le=1)
    budget: float | None = Field(default=None, gt=0, le=7 * 86_400)
    share: float | None = Field(default=None, gt=0, le=0.5)
    min_count: int | None = Field(default=None, ge=1, le=10**6)
    cap: int | None = Field(default=None, ge=1, le=10**9)


class TrainingRequest(TrainingSettings):
    """How a model is trained. ``fast_mode`` validates on 20 rows instead of all."""

    fast_mode: bool = False
    again: bool = Field(default=False, description="Replace a model that is trained already.")


class ModelView(BaseModel):
    """A model. ``state`` is "created", "training", "ready" or "failed"."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    name: str
    task_id: int
    dataset_id: int | None
    base: str
    method: str
    state: Literal["created", "training", "ready", "failed"]
    job_id: int | None
    metrics: dict[str, Any]
    headline_metric: str
    validation_loss: float | None
    created_by: str
    created_at: datetime


class ModelDetails(ModelView):
    """A model with the whole result of its training."""

    result: dict[str, Any] | None
    job: JobView | None


@router.post("", status_code=201)
def create_model(call: TrainerWrites, new: NewModel) -> ModelView:
    """Create a model from a base, a task and a data set. Another request trains it."""
    kind = _choose_type(new)
    bases = new.base if isinstance(new.base, list) else [new.base or kind.base]
    for base in bases:
        if isinstance(base, int):
            call.get(StoredModel, base)
        elif base:
            check_model_reference(base)
    dataset = None if new.dataset_id is None else call.get(StoredDataset, new.dataset_id)
    task_id = new.task_id or _find_only_task(call, dataset)
    call.get(StoredTask, task_id)
    several = len(bases) > 1 or isinstance(bases[0], int)
    model = StoredModel(
        name=new.name,
        task_id=task_id,
        dataset_id=new.dataset_id,
        base="" if several else str(bases[0]),
        method=kind.method,
        settings={"bases": bases} if several else {},
        created_by=call.user.name,
    )
    call.session.add(model)
    call.session.flush()
    call.record("model.create", model.id)
    return describe_model(call.session, model)


def _choose_type(new: NewModel) -> ModelType:
    if new.model_type is None:
        if new.method is None and new.base is None:
            raise NotValid(
                "the model has neither a method nor a base",
                fix="give a method such as linear, or a base such as smollm2-135m",
            )
        return ModelType(new.method or "", "")
    known = MODEL_TYPES.get(new.model_type.lower())
    if known is None:
        raise NotValid(
            "the model type is not known", fix=f"choose one of {', '.join(sorted(MODEL_TYPES))}"
        )
    return ModelType(new.method or known.method, known.base)


def _find_only_task(call: UserCall, dataset: StoredDataset | None) -> int:
    """The only task whose columns a data set has."""
    if dataset is None:
        raise NotValid("the model has no task", fix="give task_id: POST /api/tasks creates one")
    fitting = [
        task_id
        for task_id in call.session.scalars(select(StoredTask.id))
        if find_prompt_columns(call.files.load_task(task_id)) <= set(dataset.columns)
    ]
    if len(fitting) != 1:
        found = "no task" if not fitting else f"{len(fitting)} tasks"
        raise NotValid(
            f"the model has no task, and {found} can be asked about this data set",
            fix="give task_id: POST /api/tasks creates one",
        )
    return fitting[0]


@router.get("")
def list_models(call: ViewerReads) -> list[ModelView]:
    """All models, the newest first."""
    found = call.session.scalars(select(StoredModel).order_by(StoredModel.id.desc()))
    return [describe_model(call.session, model) for model in found]


@router.get("/compare")
def compare_models(
    call: ViewerReads, model_ids: Annotated[list[IdField], Query(min_length=1)]
) -> list[ModelView]:
    """Models side by side, the best first, each on its own validation rows.

    Runs on the same rows are compared with tests: POST /api/runs/compare.
    """
    models = [call.get(StoredModel, one) for one in dict.fromkeys(model_ids)]
    views = [describe_model(call.session, model) for model in models]
    return sorted(views, key=lambda view: -_get_score(view))


def _get_score(view: ModelView) -> float:
    metric = view.metrics.get(view.headline_metric)
    return float(metric["value"]) if metric else -1.0


@router.get("/{model_id}")
def read_model(call: ViewerReads, model_id: ResourceId) -> ModelDetails:
    """A model with the result of its training."""
    model = call.get(StoredModel, model_id)
    job = find_last_job(call.session, model)
    return ModelDetails(
        **describe_model(call.session, model).model_dump(),
        result=model.result,
        job=None if job is None else describe_job(job),
    )


@router.post("/{model_id}/train", status_code=202)
def train_model(
    call: TrainerWrites, model_id: ResourceId, wanted: TrainingRequest | None = None
) -> JobView:
    """Start the training of a model; a training that was interrupted is resumed.

    A model without a method is not trained: it answers 100 rows, or 20 in fast mode, which gives
    its metrics.
    """
    wanted = wanted or TrainingRequest()
    model = call.get(StoredModel, model_id)
    call.refuse_working_job(model)
    if model.dataset_id is None:
        raise NotValid(
            f"model {model_id} has no data set to train on",
            fix="create a model with dataset_id: POST /api/models",
        )
    if model.is_trained and not (wanted.again or was_stopped(model)):
        raise Conflict(
            f"model {model_id} is trained already",
            fix='create another model, or send {"again": true} to replace it',
        )
    settings = wanted.model_dump(exclude={"fast_mode", "again"}, exclude_none=True)
    if model.method:
        _check_settings(call.files, model, settings)
        settings |= {"max_validation": FAST_VALIDATION_ROWS} if wanted.fast_mode else {}
    else:
        rows = FAST_VALIDATION_ROWS if wanted.fast_mode else MAX_PROMPTED_ROWS
        settings = {"limit": rows, "gold": wanted.gold}
    before = find_last_job(call.session, model)
    starts_anew = (model.is_trained and wanted.again) or (
        before is not None and before.parameters.get("settings") != settings
    )
    model.is_trained, model.result = False, None
    parameters = {"model_id": model_id, "settings": settings, "starts_anew": starts_anew}
    job = call.start_job("train", parameters, "model.train", model_id)
    model.job_id = job.id
    return describe_job(job)


def was_stopped(model: StoredModel) -> bool:
    """Whether the training was stopped: the model has the best state until then."""
    return (model.result or {}).get("state") == "interrupted"


def _check_settings(files: DataFolder, model: StoredModel, settings: dict[str, Any]) -> None:
    """Raise UsageError for settings that the method does not take, before a job is started."""
    from medtask.training.recipe import build_recipe
    from medtask.training.training_data import RowSelection

    selection = {name: settings[name] for name in ("share", "min_count", "cap") if name in settings}
    recipe = {
        name: value for name, value in settings.items() if name not in selection and name != "gold"
    }
    RowSelection(**selection).check(files.load_task(model.task_id))
    bases = ["model"] * len(model.settings.get("bases", ())) or model.base or None
    build_recipe(model.method, bases, recipe).check()  # type: ignore[arg-type]


@router.get("/{model_id}/loss")
def read_loss(request: Request, user: Viewer, model_id: ResourceId) -> list[dict[str, Any]]:
    """The points of the loss curve so far; empty for methods without steps."""
    from medtask.training.train import LOSS_FILE
    from medtask.training.training_log import read_points

    path = _find_folder(request, model_id) / LOSS_FILE
    return [asdict(point) for point in read_points(path)] if path.exists() else []


@router.get("/{model_id}/card", response_class=PlainTextResponse)
def read_card(request: Request, user: Viewer, model_id: ResourceId) -> str:
    """The model card, in Markdown."""
    from medtask.training.trained_model import CARD_FILE

    path = _find_folder(request, model_id) / CARD_FILE
    if not path.exists():
        raise NotFound(
            f"model {model_id} has no card yet", fix=f"train it: POST /api/models/{model_id}/train"
        )
    return path.read_text("utf-8")


@router.delete("/{model_id}", status_code=204)
def delete_model(call: TrainerWrites, model_id: ResourceId) -> None:
    """Delete a model with its files. Runs that it answered are kept."""
    call.delete(call.get(StoredModel, model_id))


def _find_folder(request: Request, model_id: int) -> Path:
    find_row(request, StoredModel, model_id)
    return get_files(request).get_folder("models", model_id)


def describe_model(session: Session, model: StoredModel) -> ModelView:
    """The view of a model; its state follows from its files and its last job."""
    job = find_last_job(session, model)
    tasks = (model.result or {}).get("tasks") or [{}]
    bases = model.settings.get("bases", [model.base])
    return ModelView(
        id=model.id,
        name=model.name,
        task_id=model.task_id,
        dataset_id=model.dataset_id,
        base=", ".join(str(base) for base in bases),
        method=model.method,
        state=_choose_state(model, job),
        job_id=model.job_id,
        metrics=tasks[0].get("metrics") or {},
        headline_metric=tasks[0].get("measure") or "",
        validation_loss=(model.result or {}).get("validation_loss"),
        created_by=model.created_by,
        created_at=model.created_at,
    )


def _choose_state(
    model: StoredModel, job: Job | None
) -> Literal["created", "training", "ready", "failed"]:
    if job is not None and job.ended_at is None:
        return "training"
    if model.is_trained or not model.method:
        return "ready"
    return "failed" if job is not None and job.state == "failed" else "created"
