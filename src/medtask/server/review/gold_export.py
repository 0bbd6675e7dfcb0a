"""Results of a queue as gold: one row for each row of the table, with its author and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.records import Status
from medtask.runs.gold_table import (
    GoldColumns,
    GoldProvenance,
    GoldRow,
    GoldSelection,
    write_gold_table,
)
from medtask.server.review.consensus import parse_stored_value
from medtask.server.review.queues import get_settings, get_task, parse_options
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ItemState,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
    ReviewRow,
)
from medtask.tasks.kinds import get_task_kind

_FINISHED = (ItemState.AGREED, ItemState.SETTLED)


def write_gold(session: Session, queue: ReviewQueue, path: Path) -> int:
    """Write the results of a queue as a table of gold; returns the row count.

    Items that wait for someone, and those that nobody can tell, are left out.

    Raises:
        InputError: There is no result yet.
        UsageError: The format is not known.
    """
    rows = list(_iterate_rows(session, queue))
    if not rows:
        raise InputError(
            "no row of this queue has a result yet",
            fix="read some rows first; disputed ones need an adjudication",
        )
    write_gold_table(path, GoldColumns.of_table(get_task(queue), queue.columns), rows)
    return len(rows)


def _iterate_rows(session: Session, queue: ReviewQueue) -> Iterator[GoldRow]:
    """Yield the rows that have a result, in the table's order."""
    kind = get_task_kind(get_task(queue))
    selection = _find_selection(session, queue)
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
            _describe_provenance(decisions[item.id], selection),
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
            yield GoldRow(row.fields, row.record_id, *results[row.item_id])


def _find_selection(session: Session, queue: ReviewQueue) -> GoldSelection:
    """Whether the rows with a result were chosen because their answers were doubtful."""
    settings = get_settings(queue)
    query = settings.query
    # All rows with an answer are no selection among the answers.
    has_all = not query.statuses or {Status.OK, Status.REVIEW} <= set(query.statuses)
    if query.answers or query.confidence_below is not None or not has_all:
        return GoldSelection.REVIEW
    states = session.scalars(select(ReviewItem.state).where(ReviewItem.queue_id == queue.id)).all()
    # In the order of their worth, a part of the rows is the most doubtful part.
    is_part = len(states) >= settings.max_items or ItemState.OPEN in states
    is_chosen = settings.order == "worth" and is_part
    return GoldSelection.REVIEW if is_chosen else GoldSelection.RANDOM


def _describe_provenance(
    decisions: Sequence[ReviewDecision], selection: GoldSelection
) -> GoldProvenance:
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
    return GoldProvenance(
        "; ".join(one.reader_name for one in used),
        max(one.decided_at for one in used).isoformat(timespec="seconds"),
        how,
        "; ".join(one.comment for one in decisions if one.comment),
        selection,
    )
