"""Routes of reviews: queues, items, decisions, adjudication, progress and gold."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from medtask.runs.open_answers import open_answers
from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import Reviewer, Trainer, Viewer
from medtask.server.access.roles import Role, User
from medtask.server.api.resources import get_files
from medtask.server.database.base import get_utc_now
from medtask.server.database.connect import ReadSession, WriteSession, get_database
from medtask.server.problems import PROBLEM_TYPE, Conflict, NotFound, NotPermitted, describe_problem
from medtask.server.review.agreement import get_agreements
from medtask.server.review.assignments import is_reader, reassign_items
from medtask.server.review.decisions import (
    CONFLICT,
    Submission,
    SubmissionResult,
    submit_decision,
)
from medtask.server.review.gold_export import GOLD_FORMATS, write_gold
from medtask.server.review.progress import count_left_for, describe_progress
from medtask.server.review.queues import (
    QueueSource,
    create_queue,
    delete_queue,
    draft_queue,
    get_settings,
    list_queues,
    make_run_source,
)
from medtask.server.review.settings import QueueSettings, ReaderIds
from medtask.server.review.tables import ReviewQueue
from medtask.server.review.views import (
    describe_queue,
    has_read,
    load_disputed_items,
    load_next_items,
    load_own_decisions,
    reveal_model_answers,
)
from medtask.server.storage.datasets import NewDataset, add_dataset
from medtask.server.storage.uploads import ReceivedFile
from medtask.tables.read_options import ReadOptions

router = APIRouter(prefix="/api/reviews", tags=["reviews"])

MAX_ID = 2**31 - 1
QueueId = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of the queue.")]
ShortText = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Document = dict[str, Any]
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class NewQueue(BaseModel):
    """A queue to create. ``name`` may be empty."""

    model_config = ConfigDict(extra="forbid")

    run_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    name: ShortText = ""
    settings: QueueSettings = QueueSettings()


class ChangedQueue(BaseModel):
    """What to change of a queue; None leaves it as it is. A closed queue assigns no items."""

    model_config = ConfigDict(extra="forbid")

    name: ShortText | None = None
    closed: bool | None = None
    readers: ReaderIds | None = None
    adjudicators: ReaderIds | None = None


class NewGoldDataset(BaseModel):
    """The name of the data set; default: that of the queue."""

    model_config = ConfigDict(extra="forbid")

    name: ShortText = ""


class ItemRequest(BaseModel):
    """How many items a page wants to have loaded."""

    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=100)] = 20


class Reassignment(BaseModel):
    """Whose items to move, and to whom; None frees them."""

    model_config = ConfigDict(extra="forbid")

    giver_id: Annotated[str, Field(max_length=100)]
    taker_id: Annotated[str, Field(max_length=100)] | None = None


@router.get("")
def list_reviews(session: ReadSession, user: Viewer) -> list[Document]:
    """All queues with their progress, the newest first."""
    return [describe_review(session, queue, user) for queue in list_queues(session)]


@router.post("", status_code=201)
def create_review(request: Request, body: NewQueue, user: Trainer) -> Document:
    """Create a queue from the rows of a run."""
    source = _open_run(request, body.run_id)
    drafted = draft_queue(source, body.settings)
    with get_database(request).write() as session:
        queue = create_queue(
            session, source, drafted, settings=body.settings, name=body.name, created_by=user
        )
        record_action(request, session, "review.create", str(queue.id))
        return describe_review(session, queue, user)


@router.get("/{queue_id}")
def show_review(session: ReadSession, queue_id: QueueId, user: Viewer) -> Document:
    """A queue, its question with the definitions of labels, and its progress."""
    return describe_review(session, get_queue(session, queue_id), user)


@router.patch("/{queue_id}")
def change_review(
    request: Request, session: WriteSession, queue_id: QueueId, body: ChangedQueue, user: Trainer
) -> Document:
    """Rename, close or open a queue, or change who reads and adjudicates."""
    queue = get_queue(session, queue_id)
    if body.name:
        queue.name = body.name
    if body.closed is not None:
        queue.closed_at = get_utc_now() if body.closed else None
    changed = body.model_dump(include={"readers", "adjudicators"}, exclude_none=True)
    queue.settings = {**queue.settings, **changed}
    session.flush()
    record_action(request, session, "review.change", str(queue.id))
    return describe_review(session, queue, user)


@router.delete("/{queue_id}", status_code=204)
def delete_review(
    request: Request, session: WriteSession, queue_id: QueueId, user: Trainer
) -> None:
    """Delete a queue with everything that was read in it."""
    get_queue(session, queue_id)
    delete_queue(session, queue_id)
    record_action(request, session, "review.delete", str(queue_id))


@router.post("/{queue_id}/assignments")
def assign_review_items(
    request: Request, session: WriteSession, queue_id: QueueId, body: ItemRequest, user: Reviewer
) -> list[Document]:
    """The next items of the reader; they are assigned to the reader for 30 minutes."""
    queue = get_queue(session, queue_id)
    require_reader(queue, user)
    items = load_next_items(session, queue, user, body.count)
    if items:
        record_action(request, session, "review.read", str(queue_id))
    return items


@router.post("/{queue_id}/reassignments")
def reassign_review_items(
    request: Request, session: WriteSession, queue_id: QueueId, body: Reassignment, user: Trainer
) -> dict[str, int]:
    """Move the items that are loaded by one reader to another, or free them."""
    from medtask.server.access.accounts import get_account

    queue = get_queue(session, queue_id)
    taker = None
    if body.taker_id is not None:
        account = get_account(session, body.taker_id)
        taker = User(account.id, account.name, Role(account.role))
        require_reader(queue, taker)
    moved = reassign_items(session, queue, body.giver_id, taker)
    record_action(request, session, "review.reassign", str(queue_id))
    return {"moved": moved}


@router.post("/{queue_id}/decisions")
def submit_review_decision(
    request: Request, session: WriteSession, queue_id: QueueId, body: Submission, user: Reviewer
) -> Response:
    """Save a decision about one or more items, and show the model's answer to them.

    A submission that is sent again gets the same response. If the decision was changed elsewhere,
    the response is 409 with the later version, and nothing is saved.
    """
    queue = get_queue(session, queue_id)
    require_reader(queue, user)
    result = submit_decision(session, queue, user, body)
    record_action(
        request, session, f"review.{body.outcome}", str(queue_id), outcome=_name_outcome(result)
    )
    return _respond(reveal_model_answers(session, result))


@router.get("/{queue_id}/decisions")
def list_review_decisions(
    session: ReadSession,
    queue_id: QueueId,
    user: Reviewer,
    count: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[Document]:
    """The reader's own latest decisions, the last first."""
    return load_own_decisions(session, get_queue(session, queue_id), user, count)


@router.get("/{queue_id}/disputes")
def list_disputed_items(session: ReadSession, queue_id: QueueId, user: Reviewer) -> list[Document]:
    """The items that wait for an adjudicator, with the answers of their readers."""
    queue = get_queue(session, queue_id)
    require_adjudicator(queue, user)
    return load_disputed_items(session, queue, user)


@router.post("/{queue_id}/adjudications")
def submit_adjudication(
    request: Request, session: WriteSession, queue_id: QueueId, body: Submission, user: Reviewer
) -> Response:
    """Settle disputed items, as `decisions` does for readers."""
    queue = get_queue(session, queue_id)
    require_adjudicator(queue, user)
    ids = [item.id for item in body.items]
    if not get_settings(queue).readers_may_adjudicate and has_read(session, ids, user.id):
        raise NotPermitted(
            "you have read one of these items", fix="ask somebody else to adjudicate it"
        )
    result = submit_decision(session, queue, user, body, adjudicates=True)
    record_action(
        request, session, "review.adjudicate", str(queue_id), outcome=_name_outcome(result)
    )
    return _respond(result)


@router.get("/{queue_id}/progress")
def show_review_progress(
    request: Request, session: ReadSession, queue_id: QueueId, user: Viewer
) -> Document:
    """What waits for whom, what each reader has done, and the agreement of readers."""
    queue = get_queue(session, queue_id)
    return {
        **describe_progress(session, queue),
        "left": count_left_for(session, queue_id, user.id),
        "agreement": get_agreements(request.app.state, session, queue),
    }


@router.get("/{queue_id}/gold", response_class=Response)
def download_gold(
    request: Request,
    queue_id: QueueId,
    user: Reviewer,
    format: Annotated[Literal["csv", "parquet", "xlsx", "jsonl"], Query()] = "csv",  # noqa: A002
) -> Response:
    """The results as a table with gold, for `medtask evaluate --gold` and `medtask train`."""
    assert format in GOLD_FORMATS
    with tempfile.TemporaryDirectory(prefix="medtask-") as folder:
        path = FilePath(folder) / f"gold.{format}"
        with get_database(request).write() as session:
            queue = get_queue(session, queue_id)
            write_gold(session, queue, path)
            record_action(request, session, "review.export", str(queue_id))
        content = path.read_bytes()
    name = f"gold-{queue_id}.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=headers, media_type=_MEDIA_TYPES[format])


@router.post("/{queue_id}/dataset", status_code=201)
def store_gold(
    request: Request, queue_id: QueueId, body: NewGoldDataset, user: Trainer
) -> dict[str, Any]:
    """Store the results as a data set, to train with."""
    files = get_files(request)
    path = files.create_upload_folder() / f"{secrets.token_hex(16)}.parquet"
    try:
        with get_database(request).write() as session:
            queue = get_queue(session, queue_id)
            rows = write_gold(session, queue, path)
            name = body.name or f"gold of {queue.name}"
            record_action(request, session, "review.export", str(queue_id))
        received = ReceivedFile(path, "gold.parquet", bytes=path.stat().st_size)
        new = NewDataset(name[:200], ReadOptions(), user.name)
        dataset, _ = add_dataset(get_database(request), files, received, new)
    finally:
        path.unlink(missing_ok=True)
    return {"dataset_id": dataset.id, "name": dataset.name, "rows": rows}


def get_queue(session: Session, queue_id: int) -> ReviewQueue:
    """The queue with an id; raises NotFound if there is none."""
    queue = session.get(ReviewQueue, queue_id)
    if queue is None:
        raise NotFound(f"there is no review {queue_id}", fix="list the reviews: GET /api/reviews")
    return queue


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


def describe_review(session: Session, queue: ReviewQueue, user: User) -> Document:
    """The queue, its progress, and what the user may do in it."""
    return {
        **describe_queue(queue),
        "progress": describe_progress(session, queue),
        "left": count_left_for(session, queue.id, user.id),
        "may_read": user.role >= Role.REVIEWER and is_reader(get_settings(queue), user.id),
        "may_adjudicate": may_adjudicate(queue, user),
    }


def _open_run(request: Request, run_id: int) -> QueueSource:
    folder = get_files(request).get_folder("runs", run_id)
    if not folder.is_dir():
        raise NotFound(f"there is no run {run_id}", fix="list the runs: GET /api/runs")
    return make_run_source(open_answers(folder), run_id)


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
