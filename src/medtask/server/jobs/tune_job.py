"""The job that searches for better words of a task, or for better settings of a training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.jobs.kind import (
    JobContext,
    JobKind,
    Parameters,
    resolve_dataset,
    resolve_model,
)
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver
from medtask.server.jobs.queue import make_problem
from medtask.server.storage.tables import StoredTask
from medtask.server.storage.task_files import copy_task


def _resolve(session: Session, context: JobContext, parameters: Parameters) -> dict[str, Any]:
    files, settings = context.files, dict(parameters["settings"])
    for name in ("model", "proposer", "base"):
        if settings[name] is not None:
            settings[name] = resolve_model(session, files, settings[name])
    return {
        **resolve_dataset(session, files, parameters["dataset_id"]),
        "task_file": str(files.get_task_file(parameters["task_id"])),
        "folder": str(files.create_folder("tunings", parameters["job_id"])),
        "load_options": context.to_load_options(),
        "settings": settings,
    }


def tune_task(arguments: Mapping[str, Any], observer: JobObserver) -> JobOutcome:
    """`medtask.tune` of a copy of the task, in the folder of the job."""
    from medtask.engines.load_options import LoadOptions
    from medtask.tables.read import read_table
    from medtask.tables.read_options import ReadOptions
    from medtask.tasks.load import load_task
    from medtask.training.search.tune import tune

    observer.set_phase("reading")
    folder, settings = Path(arguments["folder"]), arguments["settings"]
    copied = folder / "original"
    shutil.copytree(Path(arguments["task_file"]).parent, copied, dirs_exist_ok=True)
    tunes_training = settings["what"] == "training" or (
        settings["what"] is None and settings["method"] is not None
    )
    result = tune(
        load_task(copied / Path(arguments["task_file"]).name),
        read_table(arguments["table"], ReadOptions(**arguments["read_options"])),
        out=folder / "training" if tunes_training else copied / _TUNED_FILE,
        load_options=LoadOptions(**arguments["load_options"]),
        overwrite=True,
        observer=observer,
        **settings,
    )
    document = result.to_json()
    document |= {"written": document["written"] is not None, "lines": [document["verdict"]]}
    if document["interrupted"]:
        return JobOutcome("interrupted", document)
    if document["trials"] <= 1 and not document["changed"]:
        problem = make_problem("No results", document["verdict"], "give the search more time")
        return JobOutcome("failed", document, problem)
    return JobOutcome("succeeded", document)


_TUNED_FILE = "tuned.yaml"


def _publish(
    session: Session, context: JobContext, parameters: Parameters, result: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Store the new task file as a task; the result gets its id."""
    folder = context.files.get_folder("tunings", parameters["job_id"])
    event.listen(
        session,
        "after_commit",
        lambda _: context.files.delete_folder("tunings", parameters["job_id"]),
        once=True,
    )
    tuned = folder / "original" / _TUNED_FILE
    if result["what"] == "training" or not tuned.exists():
        return {}
    task = session.get(StoredTask, parameters["task_id"])
    if task is None:
        raise InputError("the task was deleted", fix="create it again, then start the search again")
    return {"task_id": copy_task(session, context.files, tuned, f"{task.name}, tuned").id}


TUNE = JobKind("tune", f"{__name__}:tune_task", _resolve, _publish)
