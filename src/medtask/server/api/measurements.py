"""Routes that measure runs and models: evaluation, comparison, leaderboard, speed."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy import select

from medtask.server.api.calls import TrainerWrites, ViewerReads
from medtask.server.api.jobs import JobView, describe_job
from medtask.server.api.resources import GivenId, IdField, ModelName, PrintableText, ResourceId
from medtask.server.api.run_views import RunView, describe_run, get_answered_run, send_report
from medtask.server.jobs.tables import Job
from medtask.server.problems import NotValid
from medtask.server.storage.files import PAGE_FILE
from medtask.server.storage.tables import StoredDataset, StoredRun, StoredTask

# Its paths without an id come before those of `api.runs`, which end with one.
router = APIRouter(prefix="/api/runs", tags=["runs"])


class EvaluationRequest(BaseModel):
    """What is computed of a run with gold; see `medtask evaluate`."""

    gold: PrintableText | None = None
    max_error: float | None = Field(default=None, gt=0, lt=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    calibrate: Literal["auto", "temperature", "bias", "isotonic", "batch"] | None = None
    sets: float | None = Field(default=None, gt=0, lt=1)
    baselines: bool = True


class ComparisonRequest(BaseModel):
    """Runs to compare on the rows that all of them answered."""

    run_ids: list[IdField] = Field(min_length=2, max_length=20)
    gold: PrintableText | None = None
    baselines: bool = True


class BenchmarkRequest(BaseModel):
    """Models whose speed is measured on a task: ids of models of this server, or references."""

    task_id: IdField
    dataset_id: IdField
    models: list[ModelName] = Field(min_length=1, max_length=20)
    rows: int | None = Field(default=None, ge=1, le=512)


class RankedRun(BaseModel):
    """A run on the leaderboard of its task and data set."""

    rank: int
    run: RunView
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    rows_per_s: float | None


@router.get("/leaderboard")
def read_leaderboard(call: ViewerReads, task_id: GivenId, dataset_id: GivenId) -> list[RankedRun]:
    """Finished runs of a task over a data set with gold, the best first.

    Differences are tested by POST /api/runs/compare, on the rows that all runs answered.
    """
    found = call.session.scalars(
        select(StoredRun).filter_by(task_id=task_id, dataset_id=dataset_id).order_by(StoredRun.id)
    )
    scored = [(entry, run) for run in found if (entry := _find_headline(run)) is not None]
    scored.sort(key=lambda item: -item[0][1]["value"])
    return [
        RankedRun(
            rank=rank,
            run=describe_run(call.session, run),
            metric=name,
            value=metric["value"],
            low=metric.get("low"),
            high=metric.get("high"),
            n=metric.get("n"),
            rows_per_s=(run.result or {}).get("rows_per_s"),
        )
        for rank, ((name, metric), run) in enumerate(scored, 1)
    ]


def _find_headline(run: StoredRun) -> tuple[str, dict[str, Any]] | None:
    """The first metric of a run with its interval; it is the most important one of its kind."""
    document = run.evaluation or run.result or {}
    for name, metric in (document.get("metrics") or {}).items():
        if isinstance(metric, dict) and isinstance(metric.get("value"), int | float):
            return name, metric
    return None


@router.post("/compare", status_code=202)
def compare_runs(call: TrainerWrites, wanted: ComparisonRequest) -> JobView:
    """Compare runs with paired tests; the result of the job is the leaderboard."""
    run_ids = list(dict.fromkeys(wanted.run_ids))
    if len(run_ids) < 2:
        raise NotValid("a run is not compared with itself", fix="give two different runs")
    for run_id in run_ids:
        get_answered_run(call, run_id)
    parameters = {"run_ids": run_ids, "settings": wanted.model_dump(exclude={"run_ids"})}
    return describe_job(call.start_job("compare", parameters, "run.compare"))


@router.get("/comparisons/{job_id}/report", response_class=HTMLResponse)
def read_comparison_report(call: ViewerReads, job_id: ResourceId) -> Response:
    """The report of a comparison, by the id of its job."""
    call.get(Job, job_id)
    folder = call.files.get_folder("comparisons", job_id)
    return send_report(folder / PAGE_FILE, f"comparison {job_id}")


@router.post("/benchmark", status_code=202)
def measure_models(call: TrainerWrites, wanted: BenchmarkRequest) -> JobView:
    """Measure the speed and memory of models on a task, by batch size."""
    call.get(StoredTask, wanted.task_id)
    call.get(StoredDataset, wanted.dataset_id)
    for model in wanted.models:
        call.check_model(model)
    return describe_job(call.start_job("benchmark", wanted.model_dump(), "run.benchmark"))


@router.post("/{run_id}/evaluate", status_code=202)
def evaluate_run(
    call: TrainerWrites, run_id: ResourceId, wanted: EvaluationRequest | None = None
) -> JobView:
    """Evaluate a run against gold: metrics, acceptance threshold, calibration, confusion matrix."""
    call.refuse_active_job(get_answered_run(call, run_id))
    parameters = {"run_id": run_id, "settings": (wanted or EvaluationRequest()).model_dump()}
    return describe_job(call.start_job("evaluate", parameters, "run.evaluate", run_id))
