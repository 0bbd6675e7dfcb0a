"""Routes of readers and adjudicators: items, drafts, decisions and disputes."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from medtask.server.api.calls import ReviewerReads, ReviewerWrites
from medtask.server.api.resources import ResourceId
from medtask.server.api.review_access import require_adjudicator, require_items, require_reader
from medtask.server.problems import (
    PROBLEM_TYPE,
    Conflict,
    NotPermitted,
    NotValid,
    describe_problem,
)
from medtask.server.review.decisions import (
    CONFLICT,
    Submission,
    SubmissionResult,
    submit_decision,
)
from medtask.server.review.drafts import DraftOwner, save_draft
from medtask.server.review.queues import get_settings
from medtask.server.review.tables import ReviewQueue
from medtask.server.review.views import (
    has_read,
    load_disputed_items,
    load_next_items,
    load_own_decisions,
    reveal_model_answers,
)

router = APIRouter(prefix="/api/reviews", tags=["reviews"])

Document = dict[str, Any]
_MAX_DRAFT_CHARACTERS = 200_000


class ItemRequest(BaseModel):
    """How many items a page wants to have loaded."""

    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=100)] = 20


class NewDraft(BaseModel):
    """What the page has filled in; ``value`` need not be a valid answer."""

    model_config = ConfigDict(extra="forbid")

    value: Any = None
    comment: Annotated[str, Field(max_length=5000)] = ""
    adjudicates: bool = False


@router.post("/{queue_id}/assignments")
def assign_review_items(
    call: ReviewerWrites, queue_id: ResourceId, body: ItemRequest
) -> list[Document]:
    """The next items of the reader; they are assigned to the reader for 30 minutes."""
    queue = call.get(ReviewQueue, queue_id)
    require_reader(queue, call.user)
    require_items(queue)
    items = load_next_items(call.session, queue, call.user, body.count)
    if items:
        call.record("review.read", queue_id)
    return items


@router.put("/{queue_id}/items/{item_id}/draft", status_code=204)
def save_review_draft(
    call: ReviewerWrites, queue_id: ResourceId, item_id: ResourceId, body: NewDraft
) -> None:
    """Keep what is filled in and not decided, so that the reader can continue anywhere.

    A draft is not an answer. The decision about the item removes it.
    """
    queue = call.get(ReviewQueue, queue_id)
    require = require_adjudicator if body.adjudicates else require_reader
    require(queue, call.user)
    content = {"value": body.value, "comment": body.comment}
    if len(json.dumps(content)) > _MAX_DRAFT_CHARACTERS:
        raise NotValid("the draft is too long", fix="save the answer, or shorten it")
    save_draft(call.session, queue, item_id, DraftOwner(call.user.id, body.adjudicates), content)


@router.post("/{queue_id}/decisions")
def submit_review_decision(
    call: ReviewerWrites, queue_id: ResourceId, body: Submission
) -> Response:
    """Save a decision about one or more items, and show the model's answer to them.

    A submission that is sent again gets the same response. If the decision was changed elsewhere,
    the response is 409 with the later version, and nothing is saved.
    """
    queue = call.get(ReviewQueue, queue_id)
    require_reader(queue, call.user)
    result = submit_decision(call.session, queue, call.user, body)
    call.record(f"review.{body.outcome}", queue_id, outcome=_name_outcome(result))
    return _respond(reveal_model_answers(call.session, result))


@router.get("/{queue_id}/decisions")
def list_review_decisions(
    call: ReviewerReads, queue_id: ResourceId, count: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[Document]:
    """The reader's own latest decisions, the last first."""
    return load_own_decisions(call.session, call.get(ReviewQueue, queue_id), call.user, count)


@router.get("/{queue_id}/disputes")
def list_disputed_items(call: ReviewerReads, queue_id: ResourceId) -> list[Document]:
    """The items that wait for an adjudicator, with the answers of their readers."""
    queue = call.get(ReviewQueue, queue_id)
    require_adjudicator(queue, call.user)
    return load_disputed_items(call.session, queue, call.user)


@router.post("/{queue_id}/adjudications")
def submit_adjudication(call: ReviewerWrites, queue_id: ResourceId, body: Submission) -> Response:
    """Settle disputed items, as `decisions` does for readers."""
    queue = call.get(ReviewQueue, queue_id)
    require_adjudicator(queue, call.user)
    ids = [item.id for item in body.items]
    may_settle_own = get_settings(queue).readers_may_adjudicate
    if not may_settle_own and has_read(call.session, ids, call.user.id):
        raise NotPermitted(
            "you have read one of these items", fix="ask somebody else to adjudicate it"
        )
    result = submit_decision(call.session, queue, call.user, body, adjudicates=True)
    call.record("review.adjudicate", queue_id, outcome=_name_outcome(result))
    return _respond(result)


def _name_outcome(result: SubmissionResult) -> str:
    return "conflict" if result.status == CONFLICT else "ok"


def _respond(result: SubmissionResult) -> Response:
    """The response; a conflict is a problem, and its submission is stored all the same."""
    if result.status != CONFLICT:
        return JSONResponse(result.content, result.status)
    problem = describe_problem(
        Conflict(
            "a later decision about an item is saved",
            fix="compare both, then send yours again with the later version",
        )
    )
    return JSONResponse({**problem, **result.content}, CONFLICT, media_type=PROBLEM_TYPE)
