"""Items of a queue as values of the database, and adding them to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from medtask.records import AnsweredRow
from medtask.server.review.items import (
    DraftedItems,
    count_readers,
    describe_model_answer,
)
from medtask.server.review.settings import QueueSettings
from medtask.server.review.tables import ReviewItem, ReviewRow
from medtask.tables.cell_values import is_missing, to_cell_value
from medtask.tasks.task import Task

_CHUNK = 2000  # items that are written at a time
_ITEMS, _ROWS = cast("Table", ReviewItem.__table__), cast("Table", ReviewRow.__table__)


def describe_items(
    task: Task, drafted: DraftedItems, settings: QueueSettings
) -> Iterator[dict[str, Any]]:
    """The items as JSON values: columns of `ReviewItem`, and ``contents`` with those of its rows.

    All items have all columns, so that they are inserted together.
    """
    for position, (draft, cluster) in enumerate(
        zip(drafted.items, drafted.clusters, strict=True), 1
    ):
        yield {
            "position": position,
            "cluster": cluster + 1,
            "text": draft.text,
            "options": [option.letter + option.text for option in draft.options],
            "group": draft.first.group,
            "model": describe_model_answer(task, draft.first.answer),
            "rows": len(draft.rows),
            "readers_wanted": count_readers(draft, settings),
            "contents": [_describe_row(row) for row in draft.rows],
        }


def add_items(session: Session, queue_id: int, items: Iterable[Mapping[str, Any]]) -> None:
    """Add the items of `describe_items` to a queue without items."""
    waiting = iter(items)
    while chunk := list(islice(waiting, _CHUNK)):
        values = [
            {
                **{name: value for name, value in item.items() if name != "contents"},
                "queue_id": queue_id,
            }
            for item in chunk
        ]
        session.execute(insert(_ITEMS), values)
        # Rows are inserted faster without being returned; their ids are read by their place.
        first, last = chunk[0]["position"], chunk[-1]["position"]
        ids = session.scalars(
            select(ReviewItem.id)
            .where(ReviewItem.queue_id == queue_id, ReviewItem.position.between(first, last))
            .order_by(ReviewItem.position)
        ).all()
        rows = [
            {**row, "item_id": item_id}
            for item_id, item in zip(ids, chunk, strict=True)
            for row in item["contents"]
        ]
        session.execute(insert(_ROWS), rows)


def _describe_row(row: AnsweredRow) -> dict[str, Any]:
    return {
        "number": row.row,
        "record_id": row.answer.record_id,
        "fields": {name: _store_cell(cell) for name, cell in row.fields.items()},
    }


def _store_cell(cell: object) -> object:
    """A cell as JSON can store it; missing values become null."""
    return None if is_missing(cell) else to_cell_value(cell)
