"""The kinds of jobs: what each reads from the database, runs in a process, and writes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun

_Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobContext:
    """What jobs need besides their parameters: folders, and limits of models."""

    files: DataFolder
    memory_limit_bytes: int | None = None
    allow_remote: bool = False

    def to_load_options(self) -> dict[str, Any]:
        """The fields of `LoadOptions` that the settings of the server determine."""
        return {"memory": self.memory_limit_bytes, "allow_remote": self.allow_remote}


def make_job_context(settings: ServerSettings) -> JobContext:
    """The context of the jobs of a server."""
    return JobContext(
        DataFolder(settings.data_folder), settings.memory_limit_bytes, settings.allow_remote
    )


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job.

    Attributes:
        name: The name in the database and in the API.
        work: The function that runs in the job's process, as "module:function".
        resolve: Makes its arguments: reads rows of the database. Raises InputError if one is gone.
        publish: Writes the result to the database, in the transaction that ends the job.
    """

    name: str
    work: str
    resolve: Callable[[Session, JobContext, _Parameters], dict[str, Any]]
    publish: Callable[[Session, _Parameters, Mapping[str, Any]], None]


def find_model_reference(session: Session, files: DataFolder, model_id: int) -> str:
    """The reference of a stored model, for `medtask.load_model`.

    Raises:
        InputError: The model does not exist, or is not trained yet.
    """
    model = session.get(StoredModel, model_id)
    if model is None:
        raise InputError(f"model {model_id} does not exist", fix="choose a model of /api/models")
    if model.is_trained:
        return str(files.get_folder("models", model_id))
    if model.method:
        raise InputError(
            f"model {model_id} is not trained yet",
            fix=f"train it first: POST /api/models/{model_id}/train",
        )
    return model.base


def _resolve_dataset(session: Session, files: DataFolder, dataset_id: int | None) -> dict[str, Any]:
    dataset = None if dataset_id is None else session.get(StoredDataset, dataset_id)
    if dataset is None:
        raise InputError("the data set was deleted", fix="start the job with another data set")
    folder = files.get_folder("datasets", dataset.id)
    return {"table": str(folder / dataset.file_name), "read_options": dataset.read_options}


def _get_run(session: Session, run_id: int) -> StoredRun:
    run = session.get(StoredRun, run_id)
    if run is None:
        raise InputError(f"run {run_id} was deleted", fix="start the job with another run")
    return run


def _resolve_run(session: Session, context: JobContext, parameters: _Parameters) -> dict[str, Any]:
    run = _get_run(session, parameters["run_id"])
    reference = (
        run.model
        if run.model_id is None
        else find_model_reference(session, context.files, run.model_id)
    )
    return {
        **_resolve_dataset(session, context.files, run.dataset_id),
        "task_file": str(context.files.get_task_file(run.task_id)),
        "model": reference,
        "load_options": context.to_load_options(),
        "folder": str(context.files.create_folder("runs", run.id)),
        "settings": run.settings,
    }


def _publish_run(session: Session, parameters: _Parameters, result: Mapping[str, Any]) -> None:
    if run := session.get(StoredRun, parameters["run_id"]):
        run.result = dict(result)


def _resolve_training(
    session: Session, context: JobContext, parameters: _Parameters
) -> dict[str, Any]:
    model = session.get(StoredModel, parameters["model_id"])
    if model is None:
        raise InputError("the model was deleted", fix="create another model")
    return {
        **_resolve_dataset(session, context.files, model.dataset_id),
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
    return [
        find_model_reference(session, files, base) if isinstance(base, int) else base
        for base in model.settings.get("bases", ())
    ]


def _publish_training(session: Session, parameters: _Parameters, result: Mapping[str, Any]) -> None:
    if model := session.get(StoredModel, parameters["model_id"]):
        model.result, model.is_trained = dict(result), bool(model.method)


def _resolve_evaluation(
    session: Session, context: JobContext, parameters: _Parameters
) -> dict[str, Any]:
    run = _get_run(session, parameters["run_id"])
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "settings": parameters["settings"],
    }


def _publish_evaluation(
    session: Session, parameters: _Parameters, result: Mapping[str, Any]
) -> None:
    if run := session.get(StoredRun, parameters["run_id"]):
        run.evaluation = dict(result)


def _resolve_comparison(
    session: Session, context: JobContext, parameters: _Parameters
) -> dict[str, Any]:
    runs = [_get_run(session, run_id) for run_id in parameters["run_ids"]]
    return {
        "folders": [str(context.files.get_folder("runs", run.id)) for run in runs],
        "settings": parameters["settings"],
    }


def _resolve_benchmark(
    session: Session, context: JobContext, parameters: _Parameters
) -> dict[str, Any]:
    models = [
        find_model_reference(session, context.files, model) if isinstance(model, int) else model
        for model in parameters["models"]
    ]
    return {
        **_resolve_dataset(session, context.files, parameters["dataset_id"]),
        "task_file": str(context.files.get_task_file(parameters["task_id"])),
        "models": models,
        "load_options": context.to_load_options(),
        "rows": parameters["rows"],
    }


def _publish_nothing(session: Session, parameters: _Parameters, result: Mapping[str, Any]) -> None:
    """The result is read from the job."""


_WORK = "medtask.server.jobs.work"
JOB_KINDS: Mapping[str, JobKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            JobKind("run", f"{_WORK}:answer_table", _resolve_run, _publish_run),
            JobKind("train", f"{_WORK}:train_model", _resolve_training, _publish_training),
            JobKind("evaluate", f"{_WORK}:evaluate_run", _resolve_evaluation, _publish_evaluation),
            JobKind("compare", f"{_WORK}:compare_runs", _resolve_comparison, _publish_nothing),
            JobKind("benchmark", f"{_WORK}:measure_models", _resolve_benchmark, _publish_nothing),
        )
    }
)
