"""Pages of reviews: all queues, and the page on which people read and adjudicate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup
from sqlalchemy.orm import Session

from medtask.errors import StorageError
from medtask.runs.manifest import read_manifest
from medtask.runs.open_answers import open_answers
from medtask.server.access.accounts import list_accounts
from medtask.server.access.requests import Reviewer, Trainer, Viewer
from medtask.server.access.roles import Role, User
from medtask.server.api.resources import MAX_ID, get_files
from medtask.server.api.review_access import (
    QueueId,
    get_queue,
    require_adjudicator,
    require_items,
    require_reader,
)
from medtask.server.api.reviews import describe_review
from medtask.server.database.connect import ReadSession
from medtask.server.pages.job_views import find_job
from medtask.server.pages.lookups import list_datasets, list_tasks
from medtask.server.problems import NotFound
from medtask.server.rendering import render_page
from medtask.server.review.agreement import get_agreements
from medtask.server.review.queues import list_queues
from medtask.server.review.tables import ReviewQueue
from medtask.server.storage.answers import ANSWERS_FILE, count_outcomes

router = APIRouter(include_in_schema=False)


@router.get("/reviews")
def show_reviews(request: Request, session: ReadSession, user: Viewer) -> Response:
    """All queues, and for trainers a form for a new one."""
    values: dict[str, Any] = {
        "reviews": [_describe(request, session, queue, user) for queue in list_queues(session)]
    }
    if user.role >= Role.TRAINER:
        accounts = [one for one in list_accounts(session) if not one.disabled]
        values |= {
            "runs": _list_runs(request.app.state.settings.data_folder),
            "datasets": list_datasets(session),
            "tasks": list_tasks(session),
            "readers": [account for account in accounts if account.role >= Role.REVIEWER],
        }
    return render_page(request, "reviews.html", values)


@router.get("/reviews/choices")
def show_review_choices(
    request: Request, user: Trainer, run_id: Annotated[int, Query(ge=1, le=MAX_ID)]
) -> Response:
    """The statuses and answers of a run, to choose the rows of a new review by."""
    folder = get_files(request).get_folder("runs", run_id)
    if not (folder / ANSWERS_FILE).exists():
        raise NotFound(f"run {run_id} has no answers", fix="choose another run")
    task = open_answers(folder).task
    counts = count_outcomes(folder, [label.name for label in task.candidates])
    return render_page(request, "review_choices.html", {"counts": counts})


@router.get("/reviews/{queue_id}/card")
def show_review_card(
    request: Request, session: ReadSession, queue_id: QueueId, user: Viewer
) -> Response:
    """The card of one queue, which the page of all queues loads again."""
    review = _describe(request, session, get_queue(session, queue_id), user)
    return render_page(request, "review_card.html", {"review": review})


@router.get("/reviews/{queue_id}")
def show_reading_page(
    request: Request, session: ReadSession, queue_id: QueueId, user: Reviewer
) -> Response:
    """The page of a reader."""
    queue = get_queue(session, queue_id)
    require_reader(queue, user)
    require_items(queue)
    return _render_reading_page(request, session, queue, user, adjudicates=False)


@router.get("/reviews/{queue_id}/adjudicate")
def show_adjudication_page(
    request: Request, session: ReadSession, queue_id: QueueId, user: Reviewer
) -> Response:
    """The same page for items on which readers differ."""
    queue = get_queue(session, queue_id)
    require_adjudicator(queue, user)
    return _render_reading_page(request, session, queue, user, adjudicates=True)


def _render_reading_page(
    request: Request, session: Session, queue: ReviewQueue, user: User, *, adjudicates: bool
) -> Response:
    review = _describe(request, session, queue, user)
    facts = {
        "queue": {name: review[name] for name in ("id", "name", "form")},
        "has_model": queue.run_id is not None,
        "user_id": user.id,
        "adjudicates": adjudicates,
        "progress": {**review["progress"], "left": review["left"]},
    }
    values = {"queue": review, "adjudicates": adjudicates, "facts": _write_json(facts)}
    return render_page(request, "review.html", values)


def _describe(request: Request, session: Session, queue: ReviewQueue, user: User) -> dict[str, Any]:
    review = describe_review(session, queue, user)
    review["progress"]["agreement"] = get_agreements(request.app.state, session, queue)
    review["job"] = find_job(session, queue.job_id, user)
    return review


def _write_json(content: object) -> Markup:
    """JSON for a script element, which a text such as ``</script>`` cannot end."""
    text = json.dumps(content)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def _list_runs(data_folder: Path) -> list[tuple[int, str]]:
    """Runs that have answers: their ids and descriptions, the newest first."""
    found = []
    for folder in (data_folder / "runs").glob("*"):
        if not folder.name.isdecimal() or not (folder / ANSWERS_FILE).exists():
            continue
        try:
            manifest = read_manifest(folder) or {}
        except StorageError:
            continue
        task = manifest.get("task", {}).get("name", "")
        found.append((int(folder.name), f"{task}, run {folder.name}"))
    return sorted(found, reverse=True)
