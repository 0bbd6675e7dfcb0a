"""Creating and listing of queues."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.display import format_row_count
from medtask.errors import InputError
from medtask.records import Option
from medtask.server.access.roles import User
from medtask.server.database.base import get_utc_now
from medtask.server.review.item_store import add_items, describe_items
from medtask.server.review.items import DraftedItems, draft_items
from medtask.server.review.settings import QueueSettings
from medtask.server.review.sources import QueueSource
from medtask.server.review.tables import ReviewQueue
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.serialization import task_from_dict, task_to_dict
from medtask.tasks.task import Task


def draft_queue(source: QueueSource, settings: QueueSettings) -> DraftedItems:
    """Select and order the rows of a queue, which takes seconds for large tables.

    Raises:
        InputError: No row can be reviewed.
    """
    drafted = draft_items(source.task, source.rows, settings)
    if not drafted.items:
        raise InputError(
            f"no row of {source.name} can be reviewed: {format_row_count(drafted.unmatched)} do "
            f"not meet the query, {format_row_count(drafted.without_text)} have no text",
            fix="change the query of the review, or choose other rows",
        )
    return drafted


def add_queue(
    session: Session, source: QueueSource, *, settings: QueueSettings, name: str, created_by: User
) -> ReviewQueue:
    """Add a queue without items; `fill_queue` adds them."""
    queue = ReviewQueue(
        name=name or f"{source.task.name}, {source.name}",
        source=source.name,
        task_name=source.task.name,
        task=task_to_dict(source.task),
        settings=settings.model_dump(mode="json"),
        columns=list(source.columns),
        notes=[],
        created_by=created_by.name,
        created_at=get_utc_now(),
    )
    session.add(queue)
    session.flush()
    return queue


def fill_queue(
    session: Session, queue: ReviewQueue, source: QueueSource, drafted: DraftedItems
) -> None:
    """Add the items of `draft_queue` to a queue of `add_queue`."""
    queue.notes = drafted.describe_left_out()
    add_items(session, queue.id, describe_items(source.task, drafted, get_settings(queue)))


def get_task(queue: ReviewQueue) -> Task:
    return task_from_dict(queue.task_name, queue.task)


def get_settings(queue: ReviewQueue) -> QueueSettings:
    return QueueSettings.model_validate(queue.settings)


def get_form(queue: ReviewQueue, options: Sequence[str]) -> AnswerForm:
    """The form of an item with these options, each stored as its letter and text."""
    return get_task_kind(get_task(queue)).build_form(parse_options(options))


def parse_options(stored: Sequence[str]) -> list[Option]:
    """Options from their stored form, the letter before the text."""
    return [Option(option[0], option[1:]) for option in stored]


def list_queues(session: Session) -> Sequence[ReviewQueue]:
    """All queues, the newest first."""
    return session.scalars(select(ReviewQueue).order_by(ReviewQueue.created_at.desc())).all()
