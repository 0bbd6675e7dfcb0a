"""The kinds of jobs: what each reads from the database, runs in a process, and writes back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.jobs.export_job import EXPORT
from medtask.server.jobs.grading_jobs import AUDIT, JUDGE
from medtask.server.jobs.kind import (
    JobContext,
    JobKind,
    Parameters,
    find_model_reference,
    get_run,
    resolve_dataset,
    resolve_model,
)
from medtask.server.jobs.review_job import REVIEW
from medtask.server.jobs.tune_job import TUNE
from medtask.server.storage.files import PAGE_FILE, DataFolder
from medtask.server.storage.tables import StoredModel, StoredRun


def _resolve_run(session: Session, context: JobContext, parameters: Parameters) -> dict[str, Any]:
    run = get_run(session, parameters["run_id"])
    reference = (
        run.model
        if run.model_id is None
        else find_model_reference(session, context.files, run.model_id)
    )
    return {
        **resolve_dataset(session, context.files, run.dataset_id),
        "task_file": str(context.files.get_task_file(run.task_id)),
        "model": reference,
        "load_options": context.to_load_options(),
        "folder": str(context.files.create_folder("runs", run.id)),
        "settings": run.settings,
    }


def _publish_run(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    if run := session.get(StoredRun, parameters["run_id"]):
        run.result = dict(result)


def _resolve_training(
    session: Session, context: JobContext, parameters: Parameters
) -> dict[str, Any]:
    model = session.get(StoredModel, parameters["model_id"])
    if model is None:
        raise InputError("the model was deleted", fix="create another model")
    return {
        **resolve_dataset(session, context.files, model.dataset_id),
        "task_file": str(context.files.get_task_file(model.task_id)),
        "folder": str(context.files.create_folder("models", model.id)),
        "base": _resolve_bases(session, context.files, model) or model.base or None,
        "method": model.method,
        "load_options": context.to_load_options(),
        "settings": parameters["settings"],
        "starts_anew": parameters.get("starts_anew", False),
    }


def _resolve_bases(session: Session, files: DataFolder, model: StoredModel) -> list[str]:
    """The references of several bases, which can be models of this server."""
    return [resolve_model(session, files, base) for base in model.settings.get("bases", ())]


def _publish_training(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    if model := session.get(StoredModel, parameters["model_id"]):
        model.result, model.is_trained = dict(result), bool(model.method)


def _resolve_evaluation(
    session: Session, context: JobContext, parameters: Parameters
) -> dict[str, Any]:
    run = get_run(session, parameters["run_id"])
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "settings": parameters["settings"],
    }


def _publish_evaluation(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    if run := session.get(StoredRun, parameters["run_id"]):
        run.evaluation = dict(result)


def _resolve_comparison(
    session: Session, context: JobContext, parameters: Parameters
) -> dict[str, Any]:
    runs = [get_run(session, run_id) for run_id in parameters["run_ids"]]
    return {
        "folders": [str(context.files.get_folder("runs", run.id)) for run in runs],
        "page": str(context.files.create_folder("comparisons", parameters["job_id"]) / PAGE_FILE),
        "settings": parameters["settings"],
    }


def _resolve_benchmark(
    session: Session, context: JobContext, parameters: Parameters
) -> dict[str, Any]:
    models = [resolve_model(session, context.files, model) for model in parameters["models"]]
    return {
        **resolve_dataset(session, context.files, parameters["dataset_id"]),
        "task_file": str(context.files.get_task_file(parameters["task_id"])),
        "models": models,
        "load_options": context.to_load_options(),
        "rows": parameters["rows"],
    }


_WORK = "medtask.server.jobs.work"
JOB_KINDS: Mapping[str, JobKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            JobKind("run", f"{_WORK}:answer_table", _resolve_run, _publish_run),
            JobKind("train", f"{_WORK}:train_model", _resolve_training, _publish_training),
            JobKind("evaluate", f"{_WORK}:evaluate_run", _resolve_evaluation, _publish_evaluation),
            JobKind("compare", f"{_WORK}:compare_runs", _resolve_comparison),
            JobKind("benchmark", f"{_WORK}:measure_models", _resolve_benchmark),
            REVIEW,
            JUDGE,
            AUDIT,
            EXPORT,
            TUNE,
        )
    }
)
