"""Saving of decisions: versions, conflicts, and submissions that are sent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.errors import InputError, UsageError
from medtask.server.access.roles import User
from medtask.server.database.base import get_utc_now
from medtask.server.review.assignments import ASSIGNMENT_TIME, drop_assignment
from medtask.server.review.consensus import (
    Verdict,
    find_consensus,
    parse_stored_value,
)
from medtask.server.review.drafts import DraftOwner, drop_draft
from medtask.server.review.queues import get_form
from medtask.server.review.tables import (
    ADJUDICATION,
    Outcome,
    ReviewAssignment,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
    ReviewSubmission,
)
from medtask.tasks.text_cleaning import clean_text

SAVED, CONFLICT = 200, 409
MAX_ITEMS = 200  # items of one submission


class SubmittedItem(BaseModel):
    """An item and the version of the decision that the page has shown; 0 for none."""

    model_config = ConfigDict(extra="forbid")

    id: int
    version: Annotated[int, Field(ge=0)] = 0


class Submission(BaseModel):
    """One decision about one or more items.

    Attributes:
        key: A name that the client has made up; sent again, it gets the same response.
        items: The items; all of them are saved, or none.
        outcome: What was decided.
        value: The answer, if there is one.
        comment: A remark.
        seconds: How long the first item was shown.
        saw_model: Whether the page showed the model's answer. It is used for items that are
            no longer assigned to the reader.
    """

    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=8, max_length=100)]
    items: Annotated[list[SubmittedItem], Field(min_length=1, max_length=MAX_ITEMS)]
    outcome: Outcome
    value: Any = None
    comment: Annotated[str, Field(max_length=5000)] = ""
    seconds: Annotated[float, Field(ge=0, le=1e6)] | None = None
    saw_model: bool = False


class SubmissionResult(NamedTuple):
    """The response to a submission: status SAVED or CONFLICT, and its JSON."""

    status: int
    content: dict[str, Any]


def submit_decision(
    session: Session,
    queue: ReviewQueue,
    reviewer: User,
    submission: Submission,
    *,
    adjudicates: bool = False,
) -> SubmissionResult:
    """Save a decision, as a new version for each of its items.

    If an item has a later version than the one that the client has seen, nothing is saved, and the
    result has the later versions. The submission is stored in any case.

    Raises:
        InputError: The answer is not valid, or an item is not in the queue.
        UsageError: The key was used for something else.
    """
    seat = ADJUDICATION if adjudicates else reviewer.id
    items = _lock_items(session, queue.id, [item.id for item in submission.items])
    content = {**submission.model_dump(mode="json"), "seat": seat}
    known = session.get(ReviewSubmission, (reviewer.id, submission.key))
    if known is not None:
        if known.queue_id != queue.id or known.content != content:
            raise UsageError(
                "this key belongs to another submission", fix="send each submission with a new key"
            )
        return SubmissionResult(known.status, known.response)
    latest = get_latest(session, list(items), seat)
    conflicts = [
        _describe_version(item.id, latest.get(item.id))
        for item in submission.items
        if (latest[item.id].version if item.id in latest else 0) != item.version
    ]
    if conflicts:
        result = SubmissionResult(CONFLICT, {"conflicts": conflicts})
    else:
        saved = [
            _save_version(session, queue, item, _Version(reviewer, seat, submission, latest))
            for item in items.values()
        ]
        result = SubmissionResult(SAVED, {"saved": saved})
    session.add(
        ReviewSubmission(
            reader_id=reviewer.id,
            key=submission.key,
            queue_id=queue.id,
            content=content,
            status=result.status,
            response=result.content,
            received_at=get_utc_now(),
        )
    )
    return result


class _Version(NamedTuple):
    """What a version is made from."""

    reviewer: User
    seat: str
    submission: Submission
    latest: Mapping[int, ReviewDecision]


def _lock_items(session: Session, queue_id: int, ids: Sequence[int]) -> dict[int, ReviewItem]:
    """The items by id, locked in one order, so that two submissions never wait for each other."""
    statement = (
        select(ReviewItem)
        .where(ReviewItem.queue_id == queue_id, ReviewItem.id.in_(ids))
        .order_by(ReviewItem.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    items = {item.id: item for item in session.scalars(statement)}
    if missing := sorted(set(ids) - items.keys()):
        raise InputError(
            f"the queue has no item {missing[0]}", fix="load the queue again, then decide"
        )
    return items


def get_latest(session: Session, ids: Sequence[int], seat: str) -> dict[int, ReviewDecision]:
    """The latest decision of a seat about each item that it has decided."""
    statement = select(ReviewDecision).where(
        ReviewDecision.item_id.in_(ids), ReviewDecision.seat == seat, ReviewDecision.is_latest
    )
    return {decision.item_id: decision for decision in session.scalars(statement)}


def _save_version(
    session: Session, queue: ReviewQueue, item: ReviewItem, new: _Version
) -> dict[str, Any]:
    """Add a version of the decision about a locked item, and update the item."""
    submission, reviewer, previous = new.submission, new.reviewer, new.latest.get(item.id)
    value = None
    if submission.outcome == Outcome.ANSWER:
        value = get_form(queue, item.options).parse(submission.value)
    assignment = session.scalar(
        select(ReviewAssignment).where(
            ReviewAssignment.item_id == item.id, ReviewAssignment.reader_id == reviewer.id
        )
    )
    saw_model = assignment.sees_model if assignment else submission.saw_model
    if previous is not None:
        previous.is_latest = False
        # After a decision the model's answer is shown, and a change may follow it.
        saw_model = saw_model or previous.outcome != Outcome.SKIPPED
    now = get_utc_now()
    decision = ReviewDecision(
        item_id=item.id,
        seat=new.seat,
        version=previous.version + 1 if previous else 1,
        reader_id=reviewer.id,
        reader_name=reviewer.name,
        outcome=submission.outcome,
        value=value,
        comment=clean_text(submission.comment),
        saw_model=saw_model,
        seconds=submission.seconds,
        decided_at=now,
    )
    session.add(decision)
    session.flush()
    drop_draft(session, item.id, DraftOwner(reviewer.id, new.seat == ADJUDICATION))
    if new.seat != ADJUDICATION:
        drop_assignment(session, item.id, reviewer.id)
        if submission.outcome == Outcome.WITHDRAWN:
            session.add(
                ReviewAssignment(
                    item_id=item.id,
                    reader_id=reviewer.id,
                    reader_name=reviewer.name,
                    sees_model=saw_model,
                    expires_at=now + ASSIGNMENT_TIME,
                )
            )
    update_item(session, queue, item)
    return _describe_version(item.id, decision)


def update_item(session: Session, queue: ReviewQueue, item: ReviewItem) -> None:
    """Set the state and the final answer of a locked item from its latest decisions."""
    decisions = session.scalars(
        select(ReviewDecision)
        .where(ReviewDecision.item_id == item.id, ReviewDecision.is_latest)
        .order_by(ReviewDecision.id)
    ).all()
    verdicts = {
        decision.seat: Verdict(decision.outcome, parse_stored_value(decision.value))
        for decision in decisions
    }
    adjudicated = verdicts.pop(ADJUDICATION, None)
    form = get_form(queue, item.options)
    consensus = find_consensus(form, list(verdicts.values()), item.readers_wanted, adjudicated)
    item.state, item.decided, item.final = consensus.state, consensus.decided, consensus.value
    session.flush()


def _describe_version(item_id: int, decision: ReviewDecision | None) -> dict[str, Any]:
    """A version as JSON; version 0 if nothing was decided."""
    if decision is None:
        return {"item": item_id, "version": 0}
    return {
        "item": item_id,
        "version": decision.version,
        "outcome": decision.outcome,
        "value": decision.value,
        "comment": decision.comment,
        "by": decision.reader_name,
        "at": decision.decided_at.isoformat(),
    }
