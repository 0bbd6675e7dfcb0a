"""How far a queue is, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.server.database.base import get_utc_now
from medtask.server.review.queues import get_settings
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ItemState,
    Outcome,
    ReviewAssignment,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
)
from medtask.server.review.views import select_read_items


def describe_progress(session: Session, queue: ReviewQueue) -> dict[str, Any]:
    """Counts of items by state and by reader, and what each item waits for."""
    states, rows = _count_states(session, queue.id)
    waiting = _count_waiting(session, queue)
    total = sum(states.values())
    finished = states[ItemState.AGREED] + states[ItemState.SETTLED]
    return {
        "items": total,
        "rows": rows,
        "finished": finished,
        "states": {state.value: states[state] for state in ItemState},
        "waiting": waiting,
        "readers": _describe_readers(session, queue.id),
    }


def count_left_for(session: Session, queue_id: int, reader_id: str) -> int:
    """The number of open items that a reader has not decided."""
    left = select(func.count(ReviewItem.id)).where(
        ReviewItem.queue_id == queue_id,
        ReviewItem.state == ItemState.OPEN,
        ReviewItem.id.not_in(select_read_items(reader_id)),
    )
    return session.scalar(left) or 0


def _count_states(session: Session, queue_id: int) -> tuple[Counter[str], int]:
    counted = session.execute(
        select(ReviewItem.state, func.count(), func.sum(ReviewItem.rows))
        .where(ReviewItem.queue_id == queue_id)
        .group_by(ReviewItem.state)
    ).all()
    states = Counter({state: count for state, count, _ in counted})
    return states, int(sum(rows for _, _, rows in counted))


def _count_waiting(session: Session, queue: ReviewQueue) -> dict[str, int]:
    """The number of items by what they wait for.

    An item that one reader of two has decided waits for the other one if the queue names two.
    """
    readers, names = get_settings(queue).readers, _list_reader_names(session, queue.id)
    waiting: Counter[str] = Counter()
    decided_by: dict[int, set[str]] = {}
    missing: dict[int, int] = {}
    rows = session.execute(
        select(ReviewItem.id, ReviewItem.readers_wanted, ReviewItem.decided, ReviewDecision.seat)
        .outerjoin(
            ReviewDecision,
            (ReviewDecision.item_id == ReviewItem.id)
            & ReviewDecision.is_latest
            & ReviewDecision.outcome.in_(READ_OUTCOMES),
        )
        .where(ReviewItem.queue_id == queue.id, ReviewItem.state == ItemState.OPEN)
    )
    for item_id, wanted, decided, seat in rows:
        missing[item_id] = wanted - decided
        decided_by.setdefault(item_id, set()).update({seat} - {None})
    for item_id, count in missing.items():
        left = [reader for reader in readers if reader not in decided_by[item_id]]
        if not decided_by[item_id]:
            waiting["a first reader"] += 1
        elif readers and len(left) <= count:
            for reader in left:
                waiting[names.get(reader, "a reader who has not begun")] += 1
            if len(left) < count:
                waiting["a further reader, whom the review must name"] += 1
        else:
            waiting["a further reader"] += 1
    disputed = session.scalar(
        select(func.count(ReviewItem.id)).where(
            ReviewItem.queue_id == queue.id, ReviewItem.state == ItemState.DISPUTED
        )
    )
    if disputed:
        waiting["adjudication"] = disputed
    return dict(waiting.most_common())


def _list_reader_names(session: Session, queue_id: int) -> Mapping[str, str]:
    decided = (
        select(ReviewDecision.reader_id, ReviewDecision.reader_name)
        .join(ReviewItem, ReviewItem.id == ReviewDecision.item_id)
        .where(ReviewItem.queue_id == queue_id)
    )
    assigned = (
        select(ReviewAssignment.reader_id, ReviewAssignment.reader_name)
        .join(ReviewItem, ReviewItem.id == ReviewAssignment.item_id)
        .where(ReviewItem.queue_id == queue_id)
    )
    return {row[0]: row[1] for row in session.execute(decided.union(assigned))}


def _describe_readers(session: Session, queue_id: int) -> list[dict[str, Any]]:
    """What each person has done, and how many items are loaded on their page."""
    counted = session.execute(
        select(
            ReviewDecision.reader_name,
            (ReviewDecision.seat == ADJUDICATION).label("adjudicates"),
            ReviewDecision.outcome,
            func.count(),
            func.max(ReviewDecision.decided_at),
            func.avg(ReviewDecision.seconds),
        )
        .join(ReviewItem, ReviewItem.id == ReviewDecision.item_id)
        .where(ReviewItem.queue_id == queue_id, ReviewDecision.is_latest)
        .group_by(ReviewDecision.reader_name, "adjudicates", ReviewDecision.outcome)
    )
    people: dict[str, dict[str, Any]] = {}
    for name, adjudicated, outcome, count, last, seconds in counted:
        person = people.setdefault(name, _make_person(name))
        key = "adjudicated" if adjudicated and outcome in READ_OUTCOMES else str(outcome)
        person[key] = person.get(key, 0) + count
        person["last"] = max(filter(None, (person["last"], last.isoformat())))
        if outcome == Outcome.ANSWER and seconds is not None and not adjudicated:
            person["seconds"] = round(float(seconds), 1)
    loaded = session.execute(
        select(ReviewAssignment.reader_name, func.count())
        .join(ReviewItem, ReviewItem.id == ReviewAssignment.item_id)
        .where(
            ReviewItem.queue_id == queue_id,
            ReviewItem.state == ItemState.OPEN,
            ReviewAssignment.expires_at > get_utc_now(),
        )
        .group_by(ReviewAssignment.reader_name)
    )
    for name, count in loaded:
        people.setdefault(name, _make_person(name))["loaded"] = count
    return sorted(people.values(), key=lambda person: person["name"])


def _make_person(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "answer": 0,
        "cannot_tell": 0,
        "skipped": 0,
        "adjudicated": 0,
        "loaded": 0,
        "last": None,
        "seconds": None,
    }
