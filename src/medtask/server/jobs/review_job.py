"""The job that makes the items of a large review: it reads, selects and orders rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_file
from medtask.records import AnsweredRow
from medtask.server.jobs.arguments import JobArguments, open_table
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver

ITEMS_FILE = "items.jsonl"
_ROWS_BETWEEN_REPORTS = 500


def draft_review(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
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
    with replace_file(Path(arguments["folder"]) / ITEMS_FILE) as path, path.open("w") as file:
        for item in describe_items(source.task, drafted, settings):
            file.write(json.dumps(item) + "\n")
    return JobOutcome(
        "succeeded", {"items": len(drafted.items), "notes": drafted.describe_left_out()}
    )


def _open_source(arguments: JobArguments) -> Any:
    from medtask.server.review.sources import open_run_source, open_table_source
    from medtask.tasks.serialization import task_from_dict

    if "run_folder" in arguments:
        return open_run_source(Path(arguments["run_folder"]), arguments["name"])
    task = task_from_dict(arguments["task_name"], arguments["task"])
    return open_table_source(task, open_table(arguments), arguments["name"])
