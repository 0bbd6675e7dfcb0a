"""Drafts: what a person has filled in about an item and not decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.database.base import get_utc_now
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ReviewDecision,
    ReviewDraft,
    ReviewItem,
    ReviewQueue,
)


class DraftOwner(NamedTuple):
    """Whose draft it is; a person has one as a reader and one as an adjudicator."""

    reader_id: str
    adjudicates: bool


def save_draft(
    session: Session,
    queue: ReviewQueue,
    item_id: int,
    owner: DraftOwner,
    content: Mapping[str, Any],
) -> None:
    """Keep a draft, in place of the one before; not of an item that is decided.

    Raises:
        InputError: The queue has no such item.
    """
    # Two pages of one person can save at the same time.
    item = session.get(ReviewItem, item_id, with_for_update=True)
    if item is None or item.queue_id != queue.id:
        raise InputError(f"the queue has no item {item_id}", fix="load the queue again")
    seat = ADJUDICATION if owner.adjudicates else owner.reader_id
    # A draft that was sent before the decision can arrive after it.
    decided = select(ReviewDecision.id).where(
        ReviewDecision.item_id == item_id,
        ReviewDecision.seat == seat,
        ReviewDecision.is_latest,
        ReviewDecision.outcome.in_(READ_OUTCOMES),
    )
    if session.scalar(decided) is not None:
        return
    draft = session.get(ReviewDraft, (item_id, *owner))
    if draft is None:
        draft = ReviewDraft(
            item_id=item_id, reader_id=owner.reader_id, adjudicates=owner.adjudicates
        )
        session.add(draft)
    draft.content, draft.saved_at = dict(content), get_utc_now()


def list_drafts(
    session: Session, item_ids: Sequence[int], owner: DraftOwner
) -> dict[int, dict[str, Any]]:
    """A person's drafts by item."""
    found = session.scalars(
        select(ReviewDraft).where(
            ReviewDraft.item_id.in_(item_ids),
            ReviewDraft.reader_id == owner.reader_id,
            ReviewDraft.adjudicates == owner.adjudicates,
        )
    )
    return {draft.item_id: draft.content for draft in found}


def drop_draft(session: Session, item_id: int, owner: DraftOwner) -> None:
    """Remove the draft of a decided item."""
    session.execute(
        delete(ReviewDraft).where(
            ReviewDraft.item_id == item_id,
            ReviewDraft.reader_id == owner.reader_id,
            ReviewDraft.adjudicates == owner.adjudicates,
        )
    )
