"""Pages of reviews: all queues, and the page on which people read and adjudicate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from medtask.errors import StorageError
from medtask.runs.manifest import read_manifest
from medtask.runs.open_answers import open_answers
from medtask.server.access.accounts import list_accounts
from medtask.server.access.requests import Trainer
from medtask.server.access.roles import Role
from medtask.server.api.calls import ReviewerReads, UserCall, ViewerReads
from medtask.server.api.resources import GivenId, ResourceId, get_files
from medtask.server.api.review_access import require_adjudicator, require_items, require_reader
from medtask.server.api.reviews import describe_review
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
def show_reviews(call: ViewerReads) -> Response:
    """All queues, and for trainers a form for a new one."""
    session = call.session
    values: dict[str, Any] = {"reviews": [_describe(call, one) for one in list_queues(session)]}
    if call.user.role >= Role.TRAINER:
        accounts = [one for one in list_accounts(session) if not one.disabled]
        values |= {
            "runs": _list_runs(call.files.root),
            "datasets": list_datasets(session),
            "tasks": list_tasks(session),
            "readers": [account for account in accounts if account.role >= Role.REVIEWER],
        }
    return call.render("reviews.html", values)


@router.get("/reviews/choices")
def show_review_choices(request: Request, user: Trainer, run_id: GivenId) -> Response:
    """The statuses and answers of a run, to choose the rows of a new review by."""
    folder = get_files(request).get_folder("runs", run_id)
    if not (folder / ANSWERS_FILE).exists():
        raise NotFound(f"run {run_id} has no answers", fix="choose another run")
    task = open_answers(folder).task
    counts = count_outcomes(folder, [label.name for label in task.candidates])
    return render_page(request, "review_choices.html", {"counts": counts})


@router.get("/reviews/{queue_id}/card")
def show_review_card(call: ViewerReads, queue_id: ResourceId) -> Response:
    """The card of one queue, which the page of all queues loads again."""
    review = _describe(call, call.get(ReviewQueue, queue_id))
    return call.render("review_card.html", {"review": review})


@router.get("/reviews/{queue_id}")
def show_reading_page(call: ReviewerReads, queue_id: ResourceId) -> Response:
    """The page of a reader."""
    queue = call.get(ReviewQueue, queue_id)
    require_reader(queue, call.user)
    require_items(queue)
    return _render_reading_page(call, queue, adjudicates=False)


@router.get("/reviews/{queue_id}/adjudicate")
def show_adjudication_page(call: ReviewerReads, queue_id: ResourceId) -> Response:
    """The same page for items on which readers differ."""
    queue = call.get(ReviewQueue, queue_id)
    require_adjudicator(queue, call.user)
    return _render_reading_page(call, queue, adjudicates=True)


def _render_reading_page(call: UserCall, queue: ReviewQueue, *, adjudicates: bool) -> Response:
    review = _describe(call, queue)
    facts = {
        "queue": {name: review[name] for name in ("id", "name", "form")},
        "has_model": queue.run_id is not None,
        "user_id": call.user.id,
        "adjudicates": adjudicates,
        "progress": {**review["progress"], "left": review["left"]},
    }
    values = {"queue": review, "adjudicates": adjudicates, "facts": _write_json(facts)}
    return call.render("review.html", values)


def _describe(call: UserCall, queue: ReviewQueue) -> dict[str, Any]:
    review = describe_review(call, queue)
    agreements = get_agreements(call.request.app.state, call.session, queue)
    review["progress"]["agreement"] = agreements
    review["job"] = find_job(call, queue)
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
