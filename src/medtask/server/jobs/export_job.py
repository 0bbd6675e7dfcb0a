"""The job that exports a model; its files are in the folder of the job until the job is deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from medtask.server.jobs.kind import (
    JobContext,
    JobKind,
    Parameters,
    find_model_reference,
    resolve_dataset,
)
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver


def _resolve(session: Session, context: JobContext, parameters: Parameters) -> dict[str, Any]:
    dataset_id, task_id = parameters["dataset_id"], parameters["task_id"]
    question: dict[str, Any] = {}
    if dataset_id is not None:
        question = {
            **resolve_dataset(session, context.files, dataset_id),
            "task_file": str(context.files.get_task_file(task_id)),
        }
    return {
        **question,
        "model": find_model_reference(session, context.files, parameters["model_id"]),
        "folder": str(context.files.create_folder("exports", parameters["job_id"])),
        "name": f"model-{parameters['model_id']}",
        "settings": parameters["settings"],
    }


def export_model(arguments: Mapping[str, Any], observer: JobObserver) -> JobOutcome:
    """`medtask.export`. A model that does not answer as its source does is not kept."""
    from medtask.exporting.export import export
    from medtask.exporting.targets import find_target
    from medtask.tables.read import read_table
    from medtask.tables.read_options import ReadOptions
    from medtask.tasks.load import load_task

    observer.set_phase("loading")
    folder, settings = Path(arguments["folder"]), arguments["settings"]
    shutil.rmtree(folder)  # what a killed process has left
    folder.mkdir(mode=0o700)
    question: dict[str, Any] = {}
    if "table" in arguments:
        question = {
            "task": load_task(arguments["task_file"]),
            "table": read_table(arguments["table"], ReadOptions(**arguments["read_options"])),
        }

    def report(step: str) -> None:
        observer.on_note(step)
        observer.set_phase(step)

    exported = export(
        arguments["model"],
        out=folder / f"{arguments['name']}{find_target(settings['to']).suffix}",
        on_step=report,
        **settings,
        **question,
    )
    document = {**exported.to_json(), "path": exported.path.name}
    return JobOutcome("succeeded", _hide_folder(document, Path(arguments["model"])))


def _hide_folder(document: Mapping[str, Any], model: Path) -> dict[str, Any]:
    """The document without the folder of the model, which the manifest names as its base."""
    hidden: dict[str, Any] = json.loads(
        json.dumps(document).replace(json.dumps(str(model))[1:-1], model.name)
    )
    return hidden


EXPORT = JobKind("export", f"{__name__}:export_model", _resolve)
