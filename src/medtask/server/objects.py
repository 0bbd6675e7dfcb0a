"""The objects of the server: how people, addresses, the audit log and folders name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.server.database.base import Base
from medtask.server.jobs.tables import ENDED_STATES, Job
from medtask.server.review.tables import ReviewQueue
from medtask.server.storage.files import DataFolder, Resource
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object.

    Attributes:
        name: Its name in the audit log, and of `medtask purge`.
        noun: What people call it.
        folders: Where its files are.
    """

    name: str
    noun: str
    folders: tuple[Resource, ...]

    @property
    def path(self) -> str:
        """The path of the API that lists them."""
        return f"/api/{self.name}s"


OBJECT_KINDS: Mapping[type[Base], ObjectKind] = MappingProxyType(
    {
        StoredDataset: ObjectKind("dataset", "data set", ("datasets",)),
        StoredTask: ObjectKind("task", "task", ("tasks",)),
        StoredModel: ObjectKind("model", "model", ("models",)),
        StoredRun: ObjectKind("run", "run", ("runs",)),
        ReviewQueue: ObjectKind("review", "review", ("reviews",)),
        Job: ObjectKind("job", "job", ("comparisons", "exports", "tunings")),
    }
)


def delete_object(session: Session, files: DataFolder, row: Any) -> None:
    """Delete an object, and its files once the transaction is committed."""
    for folder, number in _list_folders(session, row):
        files.delete_after_commit(session, folder, number)
    session.delete(row)
    session.flush()


def _list_folders(session: Session, row: Any) -> list[tuple[Resource, int]]:
    """The folders with an object's texts: its own, and those of jobs that compared or tuned it."""
    kind = OBJECT_KINDS[type(row)]
    folders: list[tuple[Resource, int]] = [(folder, row.id) for folder in kind.folders]
    jobs = session.execute(
        select(Job.id, Job.kind, Job.parameters).where(Job.kind.in_(("compare", "tune")))
    )
    for number, job_kind, asked in jobs:
        if job_kind == "compare" and isinstance(row, StoredRun) and row.id in asked["run_ids"]:
            folders.append(("comparisons", number))
        elif job_kind == "tune" and asked.get(f"{kind.name}_id") == row.id:
            folders.append(("tunings", number))  # a search that was killed has left its copy
    return folders


def find_last_job(session: Session, row: StoredModel | StoredRun | ReviewQueue) -> Job | None:
    """The last job of an object; None if it has none, or if that was deleted."""
    return None if row.job_id is None else session.get(Job, row.job_id)


def find_active_job(session: Session, row: Any) -> Job | None:
    """The last job of an object of any kind, unless it has ended."""
    job = find_last_job(session, row) if hasattr(row, "job_id") else None
    return None if job is None or job.state in ENDED_STATES else job


# The parameters of jobs that name objects by ids; a model can also be named by its reference.
_NAMED_OBJECTS: Mapping[str, type[Base]] = MappingProxyType(
    {
        "run_id": StoredRun,
        "run_ids": StoredRun,
        "against": StoredRun,
        "model_id": StoredModel,
        "model": StoredModel,
        "models": StoredModel,
        "proposer": StoredModel,
        "base": StoredModel,
        "bases": StoredModel,
        "dataset_id": StoredDataset,
        "labels_dataset_id": StoredDataset,
        "task_id": StoredTask,
        "queue_id": ReviewQueue,
    }
)


def find_working_job(session: Session, row: Any) -> Job | None:
    """A job that has not ended and works on an object, or reads it; None if there is none."""
    active = select(Job).where(Job.state.not_in(ENDED_STATES)).order_by(Job.id)
    return next(
        (
            job
            for job in session.scalars(active)
            if (type(row), row.id) in _list_used_objects(session, job)
        ),
        None,
    )


def _list_used_objects(session: Session, job: Job) -> set[tuple[type[Base], int]]:
    """The objects that a job names, and those that its own run, model or review is made from."""
    named = _list_named_objects({**job.parameters.get("settings", {}), **job.parameters})
    used = set(named)
    for table, number in named:
        made: Any = session.get(table, number)
        if made is not None and getattr(made, "job_id", None) == job.id:
            columns = {name: getattr(made, name, None) for name in _NAMED_OBJECTS}
            used |= _list_named_objects({**made.settings, **columns})
    return used


def _list_named_objects(values: Mapping[str, Any]) -> set[tuple[type[Base], int]]:
    return {
        (table, one)
        for name, table in _NAMED_OBJECTS.items()
        for one in (values[name] if isinstance(values.get(name), list) else [values.get(name)])
        if isinstance(one, int)
    }
