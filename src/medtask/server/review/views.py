"""Queues and items as JSON, for the page and for programs. No reader sees another's decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from medtask.server.access.roles import User
from medtask.server.review.assignments import assign_items
from medtask.server.review.decisions import SubmissionResult, get_latest
from medtask.server.review.drafts import DraftOwner, list_drafts
from medtask.server.review.queues import get_form, get_settings, get_task
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ItemState,
    Outcome,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
    ReviewRow,
)

MAX_RECORD_IDS = 20  # ids of rows that an item names
MAX_DISPUTED = 50  # items that are sent to an adjudicator at once


def describe_queue(queue: ReviewQueue) -> dict[str, Any]:
    """The queue and its question: the instruction, and the form with the labels' definitions."""
    task = get_task(queue)
    return {
        "id": queue.id,
        "name": queue.name,
        "source": queue.source,
        "run_id": queue.run_id,
        "dataset_id": queue.dataset_id,
        "task": queue.task_name,
        "instruction": task.instruction,
        "form": get_form(queue, []).to_json(),
        "settings": queue.settings,
        "notes": queue.notes,
        "created_by": queue.created_by,
        "created_at": queue.created_at.isoformat(),
        "closed_at": queue.closed_at.isoformat() if queue.closed_at else None,
    }


def load_next_items(
    session: Session, queue: ReviewQueue, reader: User, count: int
) -> list[dict[str, Any]]:
    """Assign and describe a reader's next items."""
    assigned = assign_items(session, queue, reader, count)
    items = [item for item, _ in assigned]
    names = _list_record_ids(session, items)
    own = get_latest(session, list(names), reader.id)
    drafts = list_drafts(session, list(names), DraftOwner(reader.id, adjudicates=False))
    return [
        {
            **_describe_content(queue, item, names[item.id]),
            **_describe_own(own.get(item.id)),
            "sees_model": assignment.sees_model,
            "model": item.model if assignment.sees_model else None,
            "draft": drafts.get(item.id),
        }
        for item, assignment in assigned
    ]


def reveal_model_answers(session: Session, result: SubmissionResult) -> SubmissionResult:
    """The result with the model's answers to what was saved: a reader may see them afterwards."""
    saved = result.content.get("saved", [])
    read = [one for one in saved if one.get("outcome") in READ_OUTCOMES]
    found = session.execute(
        select(ReviewItem.id, ReviewItem.model).where(
            ReviewItem.id.in_([one["item"] for one in read])
        )
    )
    answers = {row[0]: row[1] for row in found}
    shown = [{**one, "model": answers[one["item"]]} if one in read else one for one in saved]
    return result._replace(content={**result.content, "saved": shown}) if saved else result


def load_own_decisions(
    session: Session, queue: ReviewQueue, reader: User, count: int
) -> list[dict[str, Any]]:
    """A reader's latest decisions, the last first, with their items: to look at and to change."""
    rows = session.execute(
        select(ReviewDecision, ReviewItem)
        .join(ReviewItem, ReviewItem.id == ReviewDecision.item_id)
        .where(
            ReviewItem.queue_id == queue.id,
            ReviewDecision.seat == reader.id,
            ReviewDecision.is_latest,
            ReviewDecision.outcome != Outcome.WITHDRAWN,
        )
        .order_by(ReviewDecision.id.desc())
        .limit(count)
    ).all()
    names = _list_record_ids(session, [item for _, item in rows])
    return [
        {
            **_describe_content(queue, item, names[item.id]),
            **_describe_own(decision),
            "sees_model": (sees := decision.outcome in READ_OUTCOMES or decision.saw_model),
            "model": item.model if sees else None,
            "at": decision.decided_at.isoformat(),
        }
        for decision, item in rows
    ]


def count_disputed_items(session: Session, queue: ReviewQueue, adjudicator: User) -> int:
    """The number of items that wait for this adjudicator; see `load_disputed_items`."""
    items = _select_disputed_items(queue, adjudicator).subquery()
    return session.scalar(select(func.count()).select_from(items)) or 0


def load_disputed_items(
    session: Session, queue: ReviewQueue, adjudicator: User
) -> list[dict[str, Any]]:
    """The items that wait for an adjudicator, with the readers' answers and without their names.

    Items that the adjudicator has read are left out unless the queue allows it.
    """
    query = _select_disputed_items(queue, adjudicator)
    items = session.scalars(query.order_by(ReviewItem.position).limit(MAX_DISPUTED)).all()
    decisions = session.scalars(
        select(ReviewDecision)
        .where(ReviewDecision.item_id.in_([item.id for item in items]), ReviewDecision.is_latest)
        .order_by(ReviewDecision.id)
    ).all()
    names = _list_record_ids(session, items)
    drafts = list_drafts(session, list(names), DraftOwner(adjudicator.id, adjudicates=True))
    contents = []
    for item in items:
        own = [one for one in decisions if one.item_id == item.id]
        adjudication = next((one for one in own if one.seat == ADJUDICATION), None)
        readers = [one for one in own if one.outcome in READ_OUTCOMES and one is not adjudication]
        contents.append(
            {
                **_describe_content(queue, item, names[item.id]),
                **_describe_own(adjudication),
                "sees_model": True,
                "model": item.model,
                "draft": drafts.get(item.id),
                "readers": [
                    {"name": f"Reader {number}", **_describe_verdict(decision)}
                    for number, decision in enumerate(readers, 1)
                ],
            }
        )
    return contents


def has_read(session: Session, item_ids: Sequence[int], reader_id: str) -> bool:
    """Whether the person has read one of the items."""
    read = select_read_items(reader_id).where(ReviewDecision.item_id.in_(item_ids))
    return session.scalar(read.limit(1)) is not None


def select_read_items(reader_id: str) -> Any:
    """The ids of the items that a person has read, as a query."""
    return select(ReviewDecision.item_id).where(
        ReviewDecision.seat == reader_id,
        ReviewDecision.is_latest,
        ReviewDecision.outcome.in_(READ_OUTCOMES),
    )


def _describe_content(
    queue: ReviewQueue, item: ReviewItem, record_ids: Sequence[str]
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": item.id,
        "position": item.position,
        "cluster": item.cluster,
        "text": item.text,
        "rows": item.rows,
        "record_ids": list(record_ids),
    }
    if item.options:
        content["form"] = get_form(queue, item.options).to_json()
    return content


def _describe_own(decision: ReviewDecision | None) -> dict[str, Any]:
    if decision is None:
        return {"version": 0, "decision": None}
    return {"version": decision.version, "decision": _describe_verdict(decision)}


def _describe_verdict(decision: ReviewDecision) -> dict[str, Any]:
    return {
        "outcome": decision.outcome,
        "value": decision.value,
        "comment": decision.comment,
    }


def _list_record_ids(session: Session, items: Sequence[ReviewItem]) -> dict[int, list[str]]:
    """The ids of each item's first rows."""
    names: dict[int, list[str]] = {item.id: [] for item in items}
    rows = session.execute(
        select(ReviewRow.item_id, ReviewRow.record_id)
        .where(ReviewRow.item_id.in_(names))
        .order_by(ReviewRow.number)
    )
    for item_id, record_id in rows:
        if len(names[item_id]) < MAX_RECORD_IDS:
            names[item_id].append(record_id)
    return names


def _select_disputed_items(queue: ReviewQueue, adjudicator: User) -> Select[ReviewItem]:
    query = select(ReviewItem).where(
        ReviewItem.queue_id == queue.id, ReviewItem.state == ItemState.DISPUTED
    )
    if get_settings(queue).readers_may_adjudicate:
        return query
    return query.where(ReviewItem.id.not_in(select_read_items(adjudicator.id)))
