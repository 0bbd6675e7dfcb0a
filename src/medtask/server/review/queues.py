"""Creating, listing and deleting of queues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from medtask.display import format_row_count
from medtask.errors import InputError
from medtask.records import AnsweredRow, Option
from medtask.runs.answer_table import AnswerTable
from medtask.server.access.roles import User
from medtask.server.database.base import get_utc_now
from medtask.server.review.items import (
    DraftedItems,
    ItemDraft,
    count_readers,
    describe_model_answer,
    draft_items,
)
from medtask.server.review.settings import QueueSettings
from medtask.server.review.tables import ReviewItem, ReviewQueue, ReviewRow
from medtask.tables.cell_values import is_missing, to_cell_value
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.serialization import task_from_dict, task_to_dict
from medtask.tasks.task import Task

_CHUNK = 2000  # items that are written at a time


@dataclass(frozen=True, slots=True)
class QueueSource:
    """The rows that a queue is made from.

    Attributes:
        name: The name of the run.
        task: The task; it names columns as ``columns`` does.
        columns: The columns of the input table.
        rows: The rows, with the model's answers if there are some.
        run_id: The run.
    """

    name: str
    task: Task
    columns: Sequence[str]
    rows: Iterable[AnsweredRow]
    run_id: int | None = None


def make_run_source(answers: AnswerTable, run_id: int | None = None) -> QueueSource:
    """The rows of a run, with the names of columns that its table had."""
    original = answers.renamed_columns
    task = answers.task

    def restore(column: str | None) -> str | None:
        return None if column is None else original.get(column, column)

    restored = replace(
        task,
        id_column=restore(task.id_column),
        gold_column=restore(task.gold_column),
        group_column=restore(task.group_column),
    )
    columns = tuple(answers.source_columns.values())
    name = answers.name if run_id is None else f"run {run_id}"
    return QueueSource(name, restored, columns, answers.rows(), run_id)


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
            fix="change the query of the queue, or choose another run",
        )
    return drafted


def create_queue(
    session: Session,
    source: QueueSource,
    drafted: DraftedItems,
    *,
    settings: QueueSettings,
    name: str,
    created_by: User,
) -> ReviewQueue:
    """Create a queue from the result of `draft_queue`."""
    notes = []
    if drafted.without_text:
        notes.append(f"{format_row_count(drafted.without_text)} without text left out")
    queue = ReviewQueue(
        name=name or f"{source.task.name}, {source.name}",
        source=source.name,
        run_id=source.run_id,
        task_name=source.task.name,
        task=task_to_dict(source.task),
        settings=settings.model_dump(mode="json"),
        columns=list(source.columns),
        notes=notes,
        created_by=created_by.name,
        created_at=get_utc_now(),
    )
    session.add(queue)
    session.flush()
    for start in range(0, len(drafted.items), _CHUNK):
        chunk = drafted.items[start : start + _CHUNK]
        clusters = drafted.clusters[start : start + _CHUNK]
        contents = [
            {
                **_describe_item(source.task, draft, settings),
                "queue_id": queue.id,
                "position": start + place,
                "cluster": cluster + 1,
            }
            for place, (draft, cluster) in enumerate(zip(chunk, clusters, strict=True), 1)
        ]
        statement = insert(ReviewItem).returning(ReviewItem.id, sort_by_parameter_order=True)
        ids = session.scalars(statement, contents).all()
        session.execute(insert(ReviewRow), list(_describe_rows(ids, chunk)))
    return queue


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


def delete_queue(session: Session, queue_id: int) -> None:
    """Delete a queue with all that was read."""
    session.execute(delete(ReviewQueue).where(ReviewQueue.id == queue_id))


def _describe_item(task: Task, draft: ItemDraft, settings: QueueSettings) -> dict[str, Any]:
    return {
        "text": draft.text,
        "options": [option.letter + option.text for option in draft.options],
        "group": draft.first.group,
        "model": describe_model_answer(task, draft.first.answer),
        "rows": len(draft.rows),
        "readers_wanted": count_readers(draft, settings),
    }


def _describe_rows(ids: Sequence[int], drafts: Sequence[ItemDraft]) -> Iterable[dict[str, Any]]:
    for item_id, draft in zip(ids, drafts, strict=True):
        for row in draft.rows:
            yield {
                "item_id": item_id,
                "number": row.row,
                "record_id": row.answer.record_id,
                "fields": {name: _store_cell(cell) for name, cell in row.fields.items()},
            }


def _store_cell(cell: object) -> object:
    """A cell as JSON can store it; missing values become null."""
    return None if is_missing(cell) else to_cell_value(cell)
