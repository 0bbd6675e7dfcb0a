"""Tables of jobs: what is asked, who works on it, and what came of it. They hold no record text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from medtask.server.database.base import Base

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "cancelled",
)
ENDED_STATES = (SUCCEEDED, FAILED, CANCELLED)


class Job(Base):
    """A job.

    Attributes:
        kind: A name of `jobs.kinds.JOB_KINDS`.
        parameters: Numbers of rows of other tables, and settings.
        state: "queued", "running", "succeeded", "failed" or "cancelled".
        token: Grows by one with every lease. Writes with an earlier token are rejected.
        worker: The process that has the lease, as "host:pid"; empty without one.
        lease_until: When another worker may take the job over, by the database's clock.
        available_at: Not leased before this time.
        crashes: Processes of this job that ended without a result.
        cancel_requested: Whether the worker shall stop.
        progress: The last progress: phase, done, total and more; None before the first.
        result: What the job's function returned; None unless it has one.
        problem: Why the job failed: title, detail and fix.
    """

    __tablename__ = "jobs"
    # An id is never used twice, so that a client that polls a deleted job gets no other one.
    __table_args__ = (
        Index("ix_jobs_state_available_at", "state", "available_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default=QUEUED)
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    available_at: Mapped[datetime]
    token: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str] = mapped_column(default="")
    lease_until: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    crashes: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]


class JobLine(Base):
    """A line of a job's log."""

    __tablename__ = "job_lines"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    written_at: Mapped[datetime]
    text: Mapped[str]
