"""The kinds of jobs: what each reads from the database, runs in a process, and writes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.jobs.kind import (
    Arguments,
    JobContext,
    JobKind,
    Parameters,
    find_model_reference,
    get_run,
    resolve_dataset,
    resolve_model,
)
from medtask.server.jobs.review_job import ITEMS_FILE
from medtask.server.jobs.tune_job import COPY_FOLDER, TUNED_FILE
from medtask.server.review.tables import ReviewQueue
from medtask.server.storage.files import PAGE_FILE, DataFolder
from medtask.server.storage.tables import StoredModel, StoredRun, StoredTask
from medtask.server.storage.task_files import copy_task


def _resolve_run(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
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


def _resolve_training(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
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


def _resolve_evaluation(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
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


def _resolve_comparison(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    runs = [get_run(session, run_id) for run_id in parameters["run_ids"]]
    return {
        "folders": [str(context.files.get_folder("runs", run.id)) for run in runs],
        "page": str(context.files.create_folder("comparisons", parameters["job_id"]) / PAGE_FILE),
        "settings": parameters["settings"],
    }


def _resolve_benchmark(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    models = [resolve_model(session, context.files, model) for model in parameters["models"]]
    return {
        **resolve_dataset(session, context.files, parameters["dataset_id"]),
        "task_file": str(context.files.get_task_file(parameters["task_id"])),
        "models": models,
        "load_options": context.to_load_options(),
        "rows": parameters["rows"],
    }


def _resolve_judging(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    run = get_run(session, parameters["run_id"])
    other = parameters["against"]
    against = None if other is None else get_run(session, other).id
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "against": None if against is None else str(context.files.get_folder("runs", against)),
        "model": resolve_model(session, context.files, parameters["model"]),
        "load_options": context.to_load_options(),
        "settings": parameters["settings"],
    }


def _resolve_audit(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    run = get_run(session, parameters["run_id"])
    labels = parameters["labels_dataset_id"]
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "labels": None if labels is None else resolve_dataset(session, context.files, labels),
        "settings": parameters["settings"],
    }


def _resolve_export(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    dataset_id, task_id = parameters["dataset_id"], parameters["task_id"]
    question: dict[str, Any] = {}
    if dataset_id is not None:
        question = {
            **resolve_dataset(session, context.files, dataset_id),
            "task_file": str(context.files.get_task_file(task_id)),
        }
    return {
        **question,
        "model": find_model_reference(session, context.files, parameters["model_id"]),
        "folder": str(context.files.create_folder("exports", parameters["job_id"])),
        "name": f"model-{parameters['model_id']}",
        "settings": parameters["settings"],
    }


def _resolve_review(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    queue = session.get(ReviewQueue, parameters["queue_id"])
    if queue is None:
        raise InputError("the review was deleted", fix="create another one")
    arguments: dict[str, Any] = {
        "folder": str(context.files.create_folder("reviews", queue.id)),
        "name": queue.source,
        "settings": queue.settings,
        "rows": parameters["rows"],
    }
    if queue.run_id is not None:
        return {**arguments, "run_folder": str(context.files.get_folder("runs", queue.run_id))}
    return {
        **arguments,
        **resolve_dataset(session, context.files, queue.dataset_id),
        "task_name": queue.task_name,
        "task": queue.task,
    }


def _publish_review(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    from medtask.server.review.item_store import add_items

    queue = session.get(ReviewQueue, parameters["queue_id"])
    folder = context.files.get_folder("reviews", parameters["queue_id"])
    if queue is None:
        return
    with (folder / ITEMS_FILE).open("rb") as file:
        add_items(session, queue.id, map(json.loads, file))
    queue.notes, queue.job_id = result["notes"], None
    context.files.delete_after_commit(session, "reviews", queue.id)


def _resolve_tuning(session: Session, context: JobContext, parameters: Parameters) -> Arguments:
    files, settings = context.files, dict(parameters["settings"])
    for name in ("model", "proposer", "base"):
        if settings[name] is not None:
            settings[name] = resolve_model(session, files, settings[name])
    return {
        **resolve_dataset(session, files, parameters["dataset_id"]),
        "task_file": str(files.get_task_file(parameters["task_id"])),
        "folder": str(files.create_folder("tunings", parameters["job_id"])),
        "load_options": context.to_load_options(),
        "settings": settings,
    }


def _publish_tuning(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Store the new task file as a task; the result gets its id."""
    folder = context.files.get_folder("tunings", parameters["job_id"])
    context.files.delete_after_commit(session, "tunings", parameters["job_id"])
    tuned = folder / COPY_FOLDER / TUNED_FILE
    if result["what"] == "training" or not tuned.exists():
        return {}
    task = session.get(StoredTask, parameters["task_id"])
    if task is None:
        raise InputError("the task was deleted", fix="create it again, then start the search again")
    return {"task_id": copy_task(session, context.files, tuned, f"{task.name}, tuned").id}


_PACKAGE = "medtask.server.jobs"
# In the order of the functions above.
_KINDS = (
    JobKind("run", f"{_PACKAGE}.work:answer_table", _resolve_run, _publish_run),
    JobKind("train", f"{_PACKAGE}.work:train_model", _resolve_training, _publish_training),
    JobKind("evaluate", f"{_PACKAGE}.work:evaluate_run", _resolve_evaluation, _publish_evaluation),
    JobKind("compare", f"{_PACKAGE}.work:compare_runs", _resolve_comparison),
    JobKind("benchmark", f"{_PACKAGE}.work:measure_models", _resolve_benchmark),
    JobKind("judge", f"{_PACKAGE}.grading_jobs:judge_run", _resolve_judging),
    JobKind("audit", f"{_PACKAGE}.grading_jobs:audit_run", _resolve_audit),
    JobKind("export", f"{_PACKAGE}.export_job:export_model", _resolve_export),
    JobKind("review", f"{_PACKAGE}.review_job:draft_review", _resolve_review, _publish_review),
    JobKind("tune", f"{_PACKAGE}.tune_job:tune_task", _resolve_tuning, _publish_tuning),
)
JOB_KINDS: Mapping[str, JobKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
