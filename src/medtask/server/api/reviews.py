"""Routes of reviews: creating, changing and deleting queues, progress and gold."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path as FilePath
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from medtask.server.access.accounts import get_account
from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import Reviewer, Trainer
from medtask.server.access.roles import Role, User
from medtask.server.api.calls import TrainerWrites, UserCall, ViewerReads
from medtask.server.api.resources import (
    MEDIA_TYPES,
    IdField,
    ResourceId,
    TableFormat,
    find_row,
    get_files,
    get_row,
)
from medtask.server.api.review_access import may_adjudicate, require_reader
from medtask.server.database.base import get_utc_now
from medtask.server.database.connect import get_database
from medtask.server.jobs.messages import make_problem
from medtask.server.jobs.queue import is_ended
from medtask.server.objects import find_last_job
from medtask.server.problems import NotFound, NotValid
from medtask.server.review.agreement import get_agreements
from medtask.server.review.assignments import is_reader, reassign_items
from medtask.server.review.gold_export import write_gold
from medtask.server.review.progress import count_left_for, describe_progress
from medtask.server.review.queues import (
    add_queue,
    draft_queue,
    fill_queue,
    get_settings,
    list_queues,
)
from medtask.server.review.settings import QueueSettings, ReaderIds
from medtask.server.review.sources import QueueSource, open_run_source, open_table_source
from medtask.server.review.tables import ReviewQueue
from medtask.server.review.views import count_disputed_items, describe_queue
from medtask.server.storage.answers import count_outcomes
from medtask.server.storage.datasets import NewDataset, add_dataset, open_dataset
from medtask.server.storage.tables import StoredDataset, StoredTask
from medtask.server.storage.uploads import ReceivedFile
from medtask.tables.read_options import ReadOptions

router = APIRouter(prefix="/api/reviews", tags=["reviews"])

MAX_ROWS_AT_ONCE = 2000  # more are read by a job
ShortText = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Document = dict[str, Any]


class NewQueue(BaseModel):
    """A queue to create: of a run, or of a data set without answers, with its task.

    ``name`` may be empty.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: IdField | None = None
    dataset_id: IdField | None = None
    task_id: IdField | None = None
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


class Reassignment(BaseModel):
    """Whose items to move, and to whom; None frees them."""

    model_config = ConfigDict(extra="forbid")

    giver_id: Annotated[str, Field(max_length=100)]
    taker_id: Annotated[str, Field(max_length=100)] | None = None


@router.get("")
def list_reviews(call: ViewerReads) -> list[Document]:
    """All queues with their progress, the newest first."""
    return [describe_review(call, queue) for queue in list_queues(call.session)]


@router.post("", status_code=201)
def create_review(call: TrainerWrites, body: NewQueue) -> Document:
    """Create a queue from the rows of a run, or of a data set that no model has answered.

    If there are many rows, a job makes its items: ``state`` is "creating", and ``job_id`` is given.
    """
    origin = _open_origin(call.request, body)
    source, settings, session = origin.source, body.settings, call.session
    # A few rows are read at once; a job would take longer to start.
    drafted = draft_queue(source, settings) if origin.rows <= MAX_ROWS_AT_ONCE else None
    # The transaction locks the database from here on.
    queue = add_queue(session, source, settings=settings, name=body.name, created_by=call.user)
    queue.run_id, queue.dataset_id = body.run_id, body.dataset_id
    if drafted is not None:
        fill_queue(session, queue, source, drafted)
        call.record("review.create", queue.id)
    else:
        parameters = {"queue_id": queue.id, "rows": origin.rows}
        queue.job_id = call.start_job("review", parameters, "review.create", queue.id).id
    session.flush()
    return describe_review(call, queue)


@router.get("/{queue_id}")
def show_review(call: ViewerReads, queue_id: ResourceId) -> Document:
    """A queue, its question with the definitions of labels, and its progress."""
    return describe_review(call, call.get(ReviewQueue, queue_id))


@router.patch("/{queue_id}")
def change_review(call: TrainerWrites, queue_id: ResourceId, body: ChangedQueue) -> Document:
    """Rename, close or open a queue, or change who reads and adjudicates."""
    queue = call.get(ReviewQueue, queue_id)
    if body.name:
        queue.name = body.name
    if body.closed is not None:
        queue.closed_at = get_utc_now() if body.closed else None
    changed = body.model_dump(include={"readers", "adjudicators"}, exclude_none=True)
    queue.settings = {**queue.settings, **changed}
    call.session.flush()
    call.record("review.change", queue.id)
    return describe_review(call, queue)


@router.delete("/{queue_id}", status_code=204)
def delete_review(call: TrainerWrites, queue_id: ResourceId) -> None:
    """Delete a queue with everything that was read in it."""
    call.delete(call.get(ReviewQueue, queue_id))


@router.post("/{queue_id}/reassignments")
def reassign_review_items(
    call: TrainerWrites, queue_id: ResourceId, body: Reassignment
) -> dict[str, int]:
    """Move the items that are loaded by one reader to another, or free them."""
    queue = call.get(ReviewQueue, queue_id)
    taker = None
    if body.taker_id is not None:
        account = get_account(call.session, body.taker_id)
        taker = User(account.id, account.name, Role(account.role))
        require_reader(queue, taker)
    moved = reassign_items(call.session, queue, body.giver_id, taker)
    call.record("review.reassign", queue_id)
    return {"moved": moved}


@router.get("/{queue_id}/progress")
def show_review_progress(call: ViewerReads, queue_id: ResourceId) -> Document:
    """What waits for whom, what each reader has done, and the agreement of readers."""
    queue = call.get(ReviewQueue, queue_id)
    return {
        **describe_progress(call.session, queue),
        "left": count_left_for(call.session, queue_id, call.user.id),
        "agreement": get_agreements(call.request.app.state, call.session, queue),
    }


@router.get("/{queue_id}/gold", response_class=Response)
def download_gold(
    request: Request,
    queue_id: ResourceId,
    user: Reviewer,
    format: Annotated[TableFormat, Query()] = "csv",  # noqa: A002
) -> Response:
    """The results as a table with gold, for `medtask evaluate --gold` and `medtask train`."""
    with tempfile.TemporaryDirectory(prefix="medtask-") as folder:
        path = FilePath(folder) / f"gold.{format}"
        with get_database(request).write() as session:
            queue = get_row(session, ReviewQueue, queue_id)
            write_gold(session, queue, path)
            record_action(request, session, "review.export", str(queue_id))
        content = path.read_bytes()
    name = f"gold-{queue_id}.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=headers, media_type=MEDIA_TYPES[format])


@router.post("/{queue_id}/dataset", status_code=201)
def store_gold(
    request: Request, queue_id: ResourceId, body: NewGoldDataset, user: Trainer
) -> dict[str, Any]:
    """Store the results as a data set, to train with."""
    files = get_files(request)
    path = files.create_upload_folder() / f"{secrets.token_hex(16)}.parquet"
    try:
        with get_database(request).write() as session:
            queue = get_row(session, ReviewQueue, queue_id)
            rows = write_gold(session, queue, path)
            name = body.name or f"gold of {queue.name}"
            record_action(request, session, "review.export", str(queue_id))
        received = ReceivedFile(path, "gold.parquet", bytes=path.stat().st_size)
        new = NewDataset(name[:200], ReadOptions(), user.name)
        dataset, _ = add_dataset(get_database(request), files, received, new)
    finally:
        path.unlink(missing_ok=True)
    return {"dataset_id": dataset.id, "name": dataset.name, "rows": rows}


def describe_review(call: UserCall, queue: ReviewQueue) -> Document:
    """The queue, its progress, and what the user may do in it."""
    session, user = call.session, call.user
    return {
        **describe_queue(queue),
        **_describe_state(session, queue),
        "progress": describe_progress(session, queue),
        "left": count_left_for(session, queue.id, user.id),
        "may_read": user.role >= Role.REVIEWER and is_reader(get_settings(queue), user.id),
        "may_adjudicate": may_adjudicate(queue, user),
        "to_adjudicate": count_disputed_items(session, queue, user),
    }


def _describe_state(session: Session, queue: ReviewQueue) -> Document:
    """Whether the items are there: "creating", "ready", or "failed" with the problem."""
    if queue.job_id is None:
        return {"state": "ready", "job_id": None, "problem": None}
    job = find_last_job(session, queue)
    if job is not None and not is_ended(job):
        return {"state": "creating", "job_id": job.id, "problem": None}
    problem = job.problem if job else make_problem("Deleted", "its job was deleted", "delete it")
    return {"state": "failed", "job_id": queue.job_id, "problem": problem}


class _Origin(NamedTuple):
    """The rows of a new queue, and their number."""

    source: QueueSource
    rows: int


def _open_origin(request: Request, body: NewQueue) -> _Origin:
    if (body.run_id is None) == (body.dataset_id is None):
        raise NotValid(
            "name the rows of the review", fix="give either run_id, or dataset_id and task_id"
        )
    files = get_files(request)
    if body.run_id is not None:
        folder = files.get_folder("runs", body.run_id)
        if not folder.is_dir():
            raise NotFound(f"there is no run {body.run_id}", fix="list the runs: GET /api/runs")
        source = open_run_source(folder, f"run {body.run_id}")
        return _Origin(source, count_outcomes(folder).rows)
    if body.dataset_id is None or body.task_id is None:
        raise NotValid("the review has no task", fix="give task_id")
    if body.settings.query.needs_answers:
        raise NotValid(
            "these rows have no answers of a model to choose by",
            fix="leave out answers, statuses and confidence_below, or review a run",
        )
    find_row(request, StoredTask, body.task_id)
    task, dataset = files.load_task(body.task_id), find_row(request, StoredDataset, body.dataset_id)
    name = f"data set {dataset.id}"
    return _Origin(open_table_source(task, open_dataset(files, dataset), name), dataset.rows)
