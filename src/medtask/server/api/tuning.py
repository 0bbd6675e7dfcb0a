"""The route that searches for better words of a task, or for better settings of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from medtask.server.api.calls import TrainerWrites
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import IdField, ModelName, PrintableText, ResourceId
from medtask.server.storage.tables import StoredDataset, StoredTask
from medtask.training.methods import Method

router = APIRouter(prefix="/api/tasks", tags=["tasks"])

_Budget = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,3}[smh]$")]


class TuningRequest(BaseModel):
    """What is searched for, how long, and with which models; see `medtask tune`.

    ``budget`` is a time such as "90s", "20m" or "2h". Models are ids or references.
    """

    model_config = ConfigDict(extra="forbid")

    dataset_id: IdField
    budget: _Budget = "20m"
    what: Literal["prompt", "examples", "mipro", "training"] | None = None
    model: ModelName | None = None
    proposer: ModelName | None = None
    method: Method | None = None
    base: ModelName | None = None
    gold: PrintableText | None = None
    test_share: float = Field(default=0.25, gt=0, le=0.5)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    keep_anyway: bool = False
    acknowledge_phi: bool = False


@router.post("/{task_id}/tune", status_code=202)
def tune_task(call: TrainerWrites, task_id: ResourceId, wanted: TuningRequest) -> JobView:
    """Search for better words of a task: a gain on rows that no search sees makes a new task.

    The result of the job has ``task_id`` then. With ``method`` the settings of a training are
    searched for, and the result has the best ones.
    """
    call.get(StoredTask, task_id)
    call.get(StoredDataset, wanted.dataset_id)
    for model in (wanted.model, wanted.proposer, wanted.base):
        if model is not None:
            call.check_model(model)
    settings = wanted.model_dump(exclude={"dataset_id", "acknowledge_phi"})
    parameters = {
        "task_id": task_id,
        "dataset_id": wanted.dataset_id,
        "settings": {**settings, "allow_phi": wanted.acknowledge_phi},
    }
    return describe_job(call.start_job("tune", parameters, "task.tune", task_id))
