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
from medtask.server.storage.files import Resource
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


def list_folders(session: Session, row: Any) -> list[tuple[Resource, int]]:
    """The folders that have texts of an object: its own ones, and the comparisons of a run."""
    folders = [(folder, row.id) for folder in OBJECT_KINDS[type(row)].folders]
    if isinstance(row, StoredRun):
        jobs = session.execute(select(Job.id, Job.parameters).where(Job.kind == "compare"))
        folders += [("comparisons", number) for number, asked in jobs if row.id in asked["run_ids"]]
    return folders


def find_last_job(session: Session, row: StoredModel | StoredRun | ReviewQueue) -> Job | None:
    """The last job of an object; None if it has none, or if that was deleted."""
    return None if row.job_id is None else session.get(Job, row.job_id)


def find_active_job(session: Session, row: Any) -> Job | None:
    """The last job of an object of any kind, unless it has ended."""
    job = find_last_job(session, row) if hasattr(row, "job_id") else None
    return None if job is None or job.state in ENDED_STATES else job
