"""Which items a reader gets next, and moving items from one reader to another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from medtask.server.access.roles import User
from medtask.server.database.base import get_utc_now
from medtask.server.review.queues import get_settings
from medtask.server.review.settings import QueueSettings
from medtask.server.review.tables import (
    READ_OUTCOMES,
    ItemState,
    Outcome,
    ReviewAssignment,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
)

ASSIGNMENT_TIME = timedelta(minutes=30)  # then others may take the item
MAX_SIMILAR = 30  # items with nearly equal texts that are assigned together


def assign_items(
    session: Session, queue: ReviewQueue, reader: User, count: int
) -> list[tuple[ReviewItem, ReviewAssignment]]:
    """The next items of a reader, in their order; they are assigned to the reader.

    Items that the reader has skipped come last. An item with a nearly equal text is assigned to
    the same reader. A closed queue assigns no further items.
    """
    # Readers who ask at the same time must not get the same item.
    session.execute(select(ReviewQueue.id).where(ReviewQueue.id == queue.id).with_for_update())
    now, settings = get_utc_now(), get_settings(queue)
    assigned = _list_assigned(session, queue.id, reader.id, count)
    for _, assignment in assigned:
        assignment.expires_at = now + ASSIGNMENT_TIME
    if queue.closed_at is not None or len(assigned) >= count:
        return assigned
    skipped = _has_decided(reader.id, (Outcome.SKIPPED,))
    free = _is_free(queue.id, reader.id, now)
    chosen = session.scalars(
        select(ReviewItem)
        .where(free)
        .order_by(case((skipped, 1), else_=0), ReviewItem.position)
        .limit(count - len(assigned))
    ).all()
    similar = session.scalars(
        select(ReviewItem)
        .where(
            free,
            ReviewItem.cluster.in_({item.cluster for item in chosen}),
            ReviewItem.id.not_in({item.id for item in chosen}),
            ~skipped,
        )
        .order_by(ReviewItem.position)
        .limit(MAX_SIMILAR)
    ).all()
    added = [*chosen, *similar]
    first_readers = _list_first_readers(session, [item.id for item in added], reader.id)
    for item in added:
        assignment = ReviewAssignment(
            item_id=item.id,
            reader_id=reader.id,
            reader_name=reader.name,
            sees_model=_sees_model(settings, item.id in first_readers),
            expires_at=now + ASSIGNMENT_TIME,
        )
        session.add(assignment)
        assigned.append((item, assignment))
    session.flush()
    return assigned


def is_reader(settings: QueueSettings, reader_id: str) -> bool:
    return not settings.readers or reader_id in settings.readers


def reassign_items(session: Session, queue: ReviewQueue, giver_id: str, taker: User | None) -> int:
    """Move a reader's assignments to another reader, or free them; returns their number.

    An item that the other reader has decided or has been assigned becomes free.
    """
    session.execute(select(ReviewQueue.id).where(ReviewQueue.id == queue.id).with_for_update())
    settings, moved = get_settings(queue), 0
    for item, assignment in _list_assigned(session, queue.id, giver_id, None):
        moved += 1
        known = taker is not None and session.scalar(
            select(
                or_(
                    exists().where(
                        ReviewAssignment.item_id == item.id, ReviewAssignment.reader_id == taker.id
                    ),
                    exists().where(
                        ReviewDecision.item_id == item.id,
                        ReviewDecision.reader_id == taker.id,
                        ReviewDecision.is_latest,
                        ReviewDecision.outcome.in_(READ_OUTCOMES),
                    ),
                )
            )
        )
        if taker is None or known:
            session.delete(assignment)
            continue
        assignment.reader_id, assignment.reader_name = taker.id, taker.name
        others = _list_first_readers(session, [item.id], taker.id)
        assignment.sees_model = _sees_model(settings, bool(others))
        assignment.expires_at = get_utc_now() + ASSIGNMENT_TIME
    session.flush()
    return moved


def drop_assignment(session: Session, item_id: int, reader_id: str) -> None:
    session.execute(
        delete(ReviewAssignment).where(
            ReviewAssignment.item_id == item_id, ReviewAssignment.reader_id == reader_id
        )
    )


def _list_assigned(
    session: Session, queue_id: int, reader_id: str, limit: int | None
) -> list[tuple[ReviewItem, ReviewAssignment]]:
    """The items that a reader has loaded and not decided, also after the assignment's time."""
    rows = session.execute(
        select(ReviewItem, ReviewAssignment)
        .join(ReviewAssignment, ReviewAssignment.item_id == ReviewItem.id)
        .where(
            ReviewItem.queue_id == queue_id,
            ReviewItem.state == ItemState.OPEN,
            ReviewAssignment.reader_id == reader_id,
        )
        .order_by(ReviewItem.position)
        .limit(None if limit is None else limit + MAX_SIMILAR)
    ).all()
    return [(item, assignment) for item, assignment in rows]


def _is_free(queue_id: int, reader_id: str, now: datetime) -> ColumnElement[bool]:
    """Whether an item needs one more reader, and this reader can be the one."""
    others = aliased(ReviewAssignment)
    taken = (
        select(func.count())
        .select_from(others)
        .where(others.item_id == ReviewItem.id, others.expires_at > now)
        .correlate(ReviewItem)
        .scalar_subquery()
    )
    return and_(
        ReviewItem.queue_id == queue_id,
        ReviewItem.state == ItemState.OPEN,
        ReviewItem.decided + taken < ReviewItem.readers_wanted,
        ~exists().where(
            ReviewAssignment.item_id == ReviewItem.id, ReviewAssignment.reader_id == reader_id
        ),
        ~_has_decided(reader_id, READ_OUTCOMES),
    )


def _has_decided(reader_id: str, outcomes: Collection[Outcome]) -> ColumnElement[bool]:
    return exists().where(
        ReviewDecision.item_id == ReviewItem.id,
        ReviewDecision.seat == reader_id,
        ReviewDecision.is_latest,
        ReviewDecision.outcome.in_(outcomes),
    )


def _list_first_readers(
    session: Session, item_ids: Sequence[int], reader_id: str
) -> frozenset[int]:
    """The items that another person has decided, or has been assigned."""
    decided = select(ReviewDecision.item_id).where(
        ReviewDecision.item_id.in_(item_ids),
        ReviewDecision.seat != reader_id,
        ReviewDecision.is_latest,
        ReviewDecision.outcome.in_(READ_OUTCOMES),
    )
    assigned = select(ReviewAssignment.item_id).where(
        ReviewAssignment.item_id.in_(item_ids), ReviewAssignment.reader_id != reader_id
    )
    return frozenset(session.scalars(decided.union(assigned)))


def _sees_model(settings: QueueSettings, has_first_reader: bool) -> bool:
    if settings.hide_model == "further":
        return not has_first_reader
    return settings.hide_model == "none"
