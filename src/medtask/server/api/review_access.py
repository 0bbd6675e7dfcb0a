"""Who may do what in a review."""

from __future__ import annotations

from medtask.server.access.roles import Role, User
from medtask.server.problems import Conflict, NotPermitted
from medtask.server.review.assignments import is_reader
from medtask.server.review.queues import get_settings
from medtask.server.review.tables import ReviewQueue


def require_reader(queue: ReviewQueue, user: User) -> None:
    """Raise NotPermitted if the queue names readers, and the user is not one of them."""
    if not is_reader(get_settings(queue), user.id):
        raise NotPermitted(
            "this review names its readers, and you are not one of them",
            fix="ask the person who created it to add you",
        )


def may_adjudicate(queue: ReviewQueue, user: User) -> bool:
    named = get_settings(queue).adjudicators
    return user.id in named if named else user.role >= Role.TRAINER


def require_adjudicator(queue: ReviewQueue, user: User) -> None:
    """Raise NotPermitted if the user does not adjudicate this queue."""
    if not may_adjudicate(queue, user):
        raise NotPermitted(
            "you do not adjudicate this review",
            fix="ask the person who created it to add you to the adjudicators",
        )


def require_items(queue: ReviewQueue) -> None:
    """Raise Conflict if a job still makes the items of the queue."""
    if queue.job_id is not None:
        raise Conflict(
            "the rows of this review are not there yet",
            fix=f"wait until job {queue.job_id} has ended: GET /api/jobs/{queue.job_id}",
        )
