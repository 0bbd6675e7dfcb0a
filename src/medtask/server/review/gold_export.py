"""Results of a queue as gold: one row for each row of the table, with its author and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.records import Value
from medtask.server.review.consensus import parse_stored_value
from medtask.server.review.queues import get_task, parse_options
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ItemState,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
    ReviewRow,
)
from medtask.tables.cell_values import format_json_cell
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task

GOLD_FORMATS = ("csv", "parquet", "xlsx", "jsonl")
_TEXT_FORMATS = ("csv", "xlsx")
_FINISHED = (ItemState.AGREED, ItemState.SETTLED)


class Provenance(NamedTuple):
    """Who decided an item, when, how, and their comments."""

    by: str
    at: str
    how: str
    comment: str


def write_gold(session: Session, queue: ReviewQueue, path: Path) -> int:
    """Write the results of a queue, in the format of the file's suffix; returns the row count.

    The columns are those of the table, the id if it is not among them, gold under the name that
    the task gives it (or "gold"), and "gold_by", "gold_at", "gold_how" and "gold_comment". Items
    that wait for someone, and those that nobody can tell, are left out.

    Raises:
        InputError: There is no result yet.
        UsageError: The format is not known.
    """
    task = get_task(queue)
    rows = list(_iterate_rows(session, queue))
    if not rows:
        raise InputError(
            "no row of this queue has a result yet",
            fix="read some rows first; disputed ones need an adjudication",
        )
    gold = task.gold_column or "gold"
    inputs = [name for name in queue.columns if name != gold]
    id_column = task.id_column or "id"
    ids = [] if id_column in queue.columns else [id_column]
    columns = [
        *map(Column, inputs),
        *(Column(name, "text") for name in ids),
        _make_gold_column(task, gold),
        *(Column(_find_free_name(f"gold_{name}", inputs), "text") for name in Provenance._fields),
    ]
    is_text = path.suffix.removeprefix(".") in _TEXT_FORMATS
    cells = (
        [
            *(row.fields.get(name) for name in inputs),
            *(row.record_id for _ in ids),
            _format_value(value) if is_text else value,
            *provenance,
        ]
        for row, value, provenance in rows
    )
    write_answers(path, columns, cells, byte_order_mark=True)
    return len(rows)


def _iterate_rows(
    session: Session, queue: ReviewQueue
) -> Iterator[tuple[ReviewRow, Value, Provenance]]:
    """Yield the rows that have a result, in the table's order."""
    kind = get_task_kind(get_task(queue))
    items = session.scalars(
        select(ReviewItem).where(ReviewItem.queue_id == queue.id, ReviewItem.state.in_(_FINISHED))
    ).all()
    decisions: dict[int, list[ReviewDecision]] = {}
    for decision in session.scalars(
        select(ReviewDecision)
        .join(ReviewItem, ReviewItem.id == ReviewDecision.item_id)
        .where(
            ReviewItem.queue_id == queue.id,
            ReviewItem.state.in_(_FINISHED),
            ReviewDecision.is_latest,
            ReviewDecision.outcome.in_(READ_OUTCOMES),
        )
        .order_by(ReviewDecision.id)
    ):
        decisions.setdefault(decision.item_id, []).append(decision)
    results = {
        item.id: (
            kind.format_gold(value, parse_options(item.options)),
            _describe_provenance(decisions[item.id]),
        )
        for item in items
        if (value := parse_stored_value(item.final)) is not None
    }
    rows = session.scalars(
        select(ReviewRow)
        .join(ReviewItem, ReviewItem.id == ReviewRow.item_id)
        .where(ReviewItem.queue_id == queue.id, ReviewItem.state.in_(_FINISHED))
        .order_by(ReviewRow.number)
    )
    for row in rows:
        if row.item_id in results:
            yield row, *results[row.item_id]


def _describe_provenance(decisions: Sequence[ReviewDecision]) -> Provenance:
    """Of an adjudicated item the adjudication, of others all readers."""
    adjudicated = [one for one in decisions if one.seat == ADJUDICATION]
    used = adjudicated or decisions
    how = (
        "adjudicated"
        if adjudicated
        else "one reader"
        if len(used) == 1
        else f"{len(used)} readers agree"
    )
    return Provenance(
        "; ".join(one.reader_name for one in used),
        max(one.decided_at for one in used).isoformat(timespec="seconds"),
        how,
        "; ".join(one.comment for one in decisions if one.comment),
    )


def _make_gold_column(task: Task, name: str) -> Column:
    schema = get_task_kind(task).answer_schema
    if schema is not None:
        return Column(name, "nested", schema=schema)
    return Column(name, "texts" if task.several else "text")


def _format_value(value: Value) -> object:
    """A value as a cell of text. A blank cell would mean that the row has no gold."""
    return value if isinstance(value, str) else format_json_cell(value)


def _find_free_name(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name = f"review_{name}"
    return name
