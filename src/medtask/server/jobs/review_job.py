"""The job that makes the items of a large review: it reads, selects and orders rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from medtask.atomic_files import replace_file
from medtask.errors import InputError
from medtask.records import AnsweredRow
from medtask.server.jobs.kind import JobContext, JobKind, Parameters, resolve_dataset
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver
from medtask.server.review.tables import ReviewQueue

_ITEMS_FILE = "items.jsonl"
_ROWS_BETWEEN_REPORTS = 500


def _resolve(session: Session, context: JobContext, parameters: Parameters) -> dict[str, Any]:
    queue = session.get(ReviewQueue, parameters["queue_id"])
    if queue is None:
        raise InputError("the review was deleted", fix="create another one")
    arguments: dict[str, Any] = {
        "folder": str(context.files.create_folder("reviews", queue.id)),
        "name": queue.source,
        "settings": queue.settings,
        "rows": parameters["rows"],
    }
    if queue.run_id is not None:
        return {**arguments, "run_folder": str(context.files.get_folder("runs", queue.run_id))}
    return {
        **arguments,
        **resolve_dataset(session, context.files, queue.dataset_id),
        "task_name": queue.task_name,
        "task": queue.task,
    }


def draft_review(arguments: Mapping[str, Any], observer: JobObserver) -> JobOutcome:
    """Write the items into a file of the data folder; the worker adds them to the database."""
    from medtask.server.review.item_store import describe_items
    from medtask.server.review.queues import draft_queue
    from medtask.server.review.settings import QueueSettings

    observer.set_phase("reading")
    source = _open_source(arguments)
    total: int = arguments["rows"]

    def report(rows: Iterator[AnsweredRow]) -> Iterator[AnsweredRow]:
        for done, row in enumerate(rows, 1):
            if done % _ROWS_BETWEEN_REPORTS == 0:
                observer.on_rows("reading", done, total)
            yield row
        observer.on_rows("ordering", total, total)

    settings = QueueSettings.model_validate(arguments["settings"])
    drafted = draft_queue(replace(source, rows=report(iter(source.rows))), settings)
    observer.on_rows("writing", total, total)
    with replace_file(Path(arguments["folder"]) / _ITEMS_FILE) as path, path.open("w") as file:
        for item in describe_items(source.task, drafted, settings):
            file.write(json.dumps(item) + "\n")
    return JobOutcome(
        "succeeded", {"items": len(drafted.items), "notes": drafted.describe_left_out()}
    )


def _open_source(arguments: Mapping[str, Any]) -> Any:
    from medtask.server.review.sources import open_run_source, open_table_source
    from medtask.tables.read import read_table
    from medtask.tables.read_options import ReadOptions
    from medtask.tasks.serialization import task_from_dict

    if "run_folder" in arguments:
        return open_run_source(Path(arguments["run_folder"]), arguments["name"])
    table = read_table(arguments["table"], ReadOptions(**arguments["read_options"]))
    task = task_from_dict(arguments["task_name"], arguments["task"])
    return open_table_source(task, table, arguments["name"])


def _publish(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> None:
    from medtask.server.review.item_store import add_items

    queue = session.get(ReviewQueue, parameters["queue_id"])
    folder = context.files.get_folder("reviews", parameters["queue_id"])
    if queue is None:
        return
    with (folder / _ITEMS_FILE).open("rb") as file:
        add_items(session, queue.id, map(json.loads, file))
    queue.notes, queue.job_id = result["notes"], None
    # The file is needed again if the database does not commit.
    event.listen(
        session,
        "after_commit",
        lambda _: context.files.delete_folder("reviews", queue.id),
        once=True,
    )


REVIEW = JobKind("review", f"{__name__}:draft_review", _resolve, _publish)
