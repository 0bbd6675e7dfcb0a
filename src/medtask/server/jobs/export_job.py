"""The job that exports a model; its files are in the folder of the job until the job is deleted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from medtask.server.jobs.arguments import JobArguments, open_table, open_task
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver


def export_model(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.export`. A model that does not answer as its source does is not kept."""
    from medtask.exporting.export import export
    from medtask.exporting.targets import find_target

    observer.set_phase("loading")
    folder, settings = Path(arguments["folder"]), arguments["settings"]
    shutil.rmtree(folder)  # what a killed process has left
    folder.mkdir(mode=0o700)
    question: dict[str, Any] = {}
    if "table" in arguments:
        question = {"task": open_task(arguments), "table": open_table(arguments)}

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
    return JobOutcome("succeeded", {**exported.to_json(), "path": exported.path.name})
