"""Tables of reviews: queues, items and rows, assignments, drafts, decisions and submissions.

These tables hold the text of records. Decisions are only added: a change is a new version, and a
unique constraint refuses two decisions of the same version.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from medtask.server.database.base import Base, get_utc_now

ADJUDICATION = "adjudication"  # the seat of all adjudicators


class ItemState(StrEnum):
    """OPEN items wait for readers, DISPUTED ones for an adjudicator, the others have a result."""

    OPEN = "open"
    AGREED = "agreed"
    DISPUTED = "disputed"
    SETTLED = "settled"


class Outcome(StrEnum):
    """What a reader did with an item. Only ANSWER and CANNOT_TELL count as read."""

    ANSWER = "answer"
    CANNOT_TELL = "cannot_tell"
    SKIPPED = "skipped"
    WITHDRAWN = "withdrawn"


READ_OUTCOMES = (Outcome.ANSWER, Outcome.CANNOT_TELL)


def _make_json_column() -> Any:
    return mapped_column(JSON(none_as_null=True), nullable=True)


class ReviewQueue(Base):
    """Rows of a run, or of a data set without answers, that people read.

    Attributes:
        source: What the rows are of, such as "run 3".
        run_id: The run; None for a data set.
        dataset_id: The data set; None for a run.
        task: The question as `task_to_dict` returns it.
        settings: A `QueueSettings` as JSON.
        job_id: The job that makes the items; None once they are there.
    """

    __tablename__ = "review_queues"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    source: Mapped[str]
    run_id: Mapped[int | None]
    dataset_id: Mapped[int | None]
    job_id: Mapped[int | None]
    task_name: Mapped[str]
    task: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    columns: Mapped[list[str]]
    notes: Mapped[list[str]]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
    closed_at: Mapped[datetime | None]


class ReviewItem(Base):
    """One text, with all rows that have exactly this text and these options.

    Attributes:
        position: The place in the queue, from 1.
        cluster: The position of the first item with a nearly equal text.
        model: The model's answer as JSON; None without one.
        readers_wanted: How many people should read it.
        decided: How many people have.
        final: The agreed or adjudicated answer; None if nobody can tell.
    """

    __tablename__ = "review_items"
    __table_args__ = (Index("ix_review_items_queue", "queue_id", "state", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    queue_id: Mapped[int] = mapped_column(ForeignKey("review_queues.id", ondelete="CASCADE"))
    position: Mapped[int]
    cluster: Mapped[int]
    text: Mapped[str]
    options: Mapped[list[str]]
    group: Mapped[str | None]
    model: Mapped[Any] = _make_json_column()
    rows: Mapped[int]
    readers_wanted: Mapped[int]
    state: Mapped[str] = mapped_column(default=ItemState.OPEN)
    decided: Mapped[int] = mapped_column(default=0)
    final: Mapped[Any] = _make_json_column()


class ReviewRow(Base):
    """One row of the table: its number from 1, its id and its columns."""

    __tablename__ = "review_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(
        ForeignKey("review_items.id", ondelete="CASCADE"), index=True
    )
    number: Mapped[int]
    record_id: Mapped[str]
    fields: Mapped[dict[str, Any]]


class ReviewAssignment(Base):
    """An item that a reader has loaded. Others may take it after ``expires_at``."""

    __tablename__ = "review_assignments"
    __table_args__ = (UniqueConstraint("item_id", "reader_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id", ondelete="CASCADE"))
    reader_id: Mapped[str] = mapped_column(index=True)
    reader_name: Mapped[str]
    sees_model: Mapped[bool]
    expires_at: Mapped[datetime]


class ReviewDecision(Base):
    """One version of what a reader, or the adjudication, decided about an item.

    Attributes:
        seat: The reader's id, or ADJUDICATION.
        version: The number of the version, from 1.
        is_latest: Whether there is no later version.
        saw_model: Whether the reader saw the model's answer before deciding.
        seconds: How long the item was shown; None if unknown.
    """

    __tablename__ = "review_decisions"
    __table_args__ = (UniqueConstraint("item_id", "seat", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id", ondelete="CASCADE"))
    seat: Mapped[str]
    version: Mapped[int]
    is_latest: Mapped[bool] = mapped_column(default=True)
    reader_id: Mapped[str] = mapped_column(index=True)
    reader_name: Mapped[str]
    outcome: Mapped[str]
    value: Mapped[Any] = _make_json_column()
    comment: Mapped[str] = mapped_column(default="")
    saw_model: Mapped[bool]
    seconds: Mapped[float | None]
    decided_at: Mapped[datetime]


class ReviewDraft(Base):
    """What a person has filled in and not saved, for any machine that they continue on.

    ``content`` has the value of the input, which need not be valid, and the comment.
    """

    __tablename__ = "review_drafts"

    item_id: Mapped[int] = mapped_column(
        ForeignKey("review_items.id", ondelete="CASCADE"), primary_key=True
    )
    reader_id: Mapped[str] = mapped_column(primary_key=True)
    adjudicates: Mapped[bool] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]
    saved_at: Mapped[datetime]


class ReviewSubmission(Base):
    """Everything that was submitted, also what was refused as a conflict, with the response.

    The key is the client's: the same submission sent again gets the same response.
    """

    __tablename__ = "review_submissions"

    reader_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    queue_id: Mapped[int] = mapped_column(ForeignKey("review_queues.id", ondelete="CASCADE"))
    content: Mapped[dict[str, Any]]
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
