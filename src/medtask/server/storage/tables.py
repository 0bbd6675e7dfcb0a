"""Tables of data sets, tasks, models and runs. Texts of records are in files only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from medtask.server.database.base import Base, get_utc_now

# An id is never used twice: a run's folder and links of users are named after it.
_KEEP_IDS = {"sqlite_autoincrement": True}


class StoredDataset(Base):
    """An uploaded table.

    Attributes:
        file_name: The name of the file in the folder of the data set.
        bytes: The size of the file.
        sha256: The digest of the file, as `Table.digest` gives it.
        read_options: Fields of `ReadOptions` that were given.
        notes: How the file was read, such as its encoding and delimiter.
    """

    __tablename__ = "datasets"
    __table_args__ = _KEEP_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    file_name: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    rows: Mapped[int]
    columns: Mapped[list[str]]
    notes: Mapped[list[str]]
    read_options: Mapped[dict[str, Any]]
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)


class StoredTask(Base):
    """A task file."""

    __tablename__ = "tasks"
    __table_args__ = _KEEP_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str]
    fingerprint: Mapped[str]
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
    changed_at: Mapped[datetime] = mapped_column(default=get_utc_now)


class StoredModel(Base):
    """A model for a task: a base as it is, or one that is trained here.

    Attributes:
        base: The model to start from; "" for methods without one.
        method: The training method; "" for a base that is used without training.
        settings: Settings of the training: fields of `Recipe` and `RowSelection`, gold.
        job_id: The last training.
        is_trained: Whether the model's folder holds a trained model.
        result: `TrainedModel.to_json` of the last training.
    """

    __tablename__ = "models"
    __table_args__ = _KEEP_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    dataset_id: Mapped[int | None] = mapped_column(
        ForeignKey("datasets.id", ondelete="SET NULL"), index=True
    )
    base: Mapped[str] = mapped_column(default="")
    method: Mapped[str] = mapped_column(default="")
    settings: Mapped[dict[str, Any]]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    is_trained: Mapped[bool] = mapped_column(default=False)
    result: Mapped[dict[str, Any] | None]
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)


class StoredRun(Base):
    """A run of a task and a model over a data set.

    Attributes:
        model_id: The stored model; None for a model that was named by its reference.
        model: The reference of the model, or the name of the stored one.
        settings: Arguments of `medtask.run`.
        job_id: The last job of the run.
        result: `Run.to_json` of the last job.
        evaluation: `Evaluation.to_json` of the last evaluation.
    """

    __tablename__ = "runs"
    __table_args__ = _KEEP_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    dataset_id: Mapped[int | None] = mapped_column(
        ForeignKey("datasets.id", ondelete="SET NULL"), index=True
    )
    model_id: Mapped[int | None] = mapped_column(
        ForeignKey("models.id", ondelete="SET NULL"), index=True
    )
    model: Mapped[str]
    settings: Mapped[dict[str, Any]]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    result: Mapped[dict[str, Any] | None]
    evaluation: Mapped[dict[str, Any] | None]
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
