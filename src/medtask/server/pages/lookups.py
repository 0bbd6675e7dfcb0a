"""What pages of several resources look up: the choices of forms."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask

# Built-in models, which are on every machine.
BASES = ("smollm2-135m", "minilm")


def list_tasks(session: Session) -> Sequence[StoredTask]:
    """All tasks, the last changed first."""
    return session.scalars(select(StoredTask).order_by(StoredTask.changed_at.desc())).all()


def list_datasets(session: Session) -> Sequence[StoredDataset]:
    """All data sets, the newest first."""
    return session.scalars(select(StoredDataset).order_by(StoredDataset.id.desc())).all()


def find_dataset(session: Session, row: StoredModel | StoredRun) -> StoredDataset | None:
    """The data set of a model or a run; None if it has none, or if that was deleted."""
    return None if row.dataset_id is None else session.get(StoredDataset, row.dataset_id)


def list_usable_models(session: Session) -> Sequence[Row[StoredModel, str]]:
    """Models that can answer, each with the name of its task; the newest first."""
    rows = session.execute(
        select(StoredModel, StoredTask.name)
        .join(StoredTask, StoredTask.id == StoredModel.task_id)
        .where(StoredModel.is_trained | (StoredModel.method == ""))
        .order_by(StoredModel.id.desc())
    )
    return rows.all()
