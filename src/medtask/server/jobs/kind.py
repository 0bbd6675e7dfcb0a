"""What a kind of job is, and what kinds look up in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun

Parameters = Mapping[str, Any]
Arguments = dict[str, Any]  # of the function that runs in the process of a job


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


def publish_nothing(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    """The result is read from the job."""


_Publish = Callable[[Session, JobContext, Parameters, Mapping[str, Any]], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job. Parameters have ``job_id``, besides what the request has given.

    Attributes:
        name: The name in the database and in the API.
        work: The function that runs in the job's process, as "module:function".
        resolve: Makes its arguments: reads rows of the database. Raises InputError if one is gone.
        publish: Writes the result to the database, in the transaction that ends the job; returns
            what is added to the job's result. By default nothing is written.
    """

    name: str
    work: str
    resolve: Callable[[Session, JobContext, Parameters], Arguments]
    publish: _Publish = publish_nothing


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


def resolve_model(session: Session, files: DataFolder, model: int | str) -> str:
    """The reference of a model that is named by its id or by its reference."""
    return find_model_reference(session, files, model) if isinstance(model, int) else model


def resolve_dataset(session: Session, files: DataFolder, dataset_id: int | None) -> dict[str, Any]:
    """Where a data set is and how it is read; raises InputError if it was deleted."""
    dataset = None if dataset_id is None else session.get(StoredDataset, dataset_id)
    if dataset is None:
        raise InputError("the data set was deleted", fix="start the job with another data set")
    folder = files.get_folder("datasets", dataset.id)
    return {"table": str(folder / dataset.file_name), "read_options": dataset.read_options}


def get_run(session: Session, run_id: int) -> StoredRun:
    """A run; raises InputError if it was deleted."""
    run = session.get(StoredRun, run_id)
    if run is None:
        raise InputError(f"run {run_id} was deleted", fix="start the job with another run")
    return run
