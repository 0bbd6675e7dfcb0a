"""The option `--track`: logging of results to an experiment store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import console as show

if TYPE_CHECKING:
    from medtask.runs.tracking.tracker import Tracker
    from medtask.tasks.task import Task

TrackingStore = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="WHERE",
        help="Log metrics to mlflow, mlflow:URI or weave:ENTITY/PROJECT.",
    ),
]


def open_tracking(
    store: str | None, task: Task, folder: Path | None, *, allow_remote: bool = False
) -> Tracker | None:
    """Open the named store before anything is computed; None if no store is named.

    ``folder`` is the run folder. A default store is created next to it, or in the task's runs.
    """
    from medtask.runs.folder import open_runs_folder
    from medtask.runs.tracking.tracker import open_tracker

    if store is None:
        return None
    home = folder.absolute().parent if folder else open_runs_folder(task)
    return open_tracker(
        store, runs_folder=home, task=task.name, phi=bool(task.phi), allow_remote=allow_remote
    )


def report_to_tracker(
    tracker: Tracker | None,
    verb: str,
    task: Task,
    folder: Path,
    document: Mapping[str, Any],
    settings: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Log the JSON document of a command to the store, and print a line on standard error.

    ``folder`` is a run folder, or the table of another tool. An error of the store does not change
    the exit code; the returned document has it under ``tracked.error``.
    """
    from medtask.runs.manifest import read_manifest
    from medtask.runs.tracking.tracked_run import TrackingRecord
    from medtask.runs.tracking.tracker import log_run

    if tracker is None:
        return dict(document)
    manifest = (read_manifest(folder) if folder.is_dir() else None) or {}
    name = folder.name if folder.is_dir() else folder.stem
    record = TrackingRecord(verb, task.name, name, document, manifest, settings, folder)
    tracking_result = log_run(tracker, record)
    style, head = ("dim", "") if tracking_result.error is None else ("yellow", "warning: ")
    show.print_line((head, style), tracking_result.status_line, stderr=True)
    return {**document, "tracked": tracking_result.to_json()}
