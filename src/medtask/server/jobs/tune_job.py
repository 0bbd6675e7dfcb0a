"""The job that searches for better words of a task, or for better settings of a training."""

from __future__ import annotations

import shutil
from pathlib import Path

from medtask.server.jobs.arguments import JobArguments, get_load_options, open_table
from medtask.server.jobs.messages import JobOutcome, make_problem
from medtask.server.jobs.observer import JobObserver

TUNED_FILE = "tuned.yaml"
COPY_FOLDER = "original"  # the copy of the task


def tune_task(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.tune` of a copy of the task, in the folder of the job."""
    from medtask.tasks.load import load_task
    from medtask.training.search.tune import tune

    observer.set_phase("reading")
    folder, settings = Path(arguments["folder"]), arguments["settings"]
    copied = folder / COPY_FOLDER
    shutil.copytree(Path(arguments["task_file"]).parent, copied, dirs_exist_ok=True)
    tunes_training = settings["what"] == "training" or (
        settings["what"] is None and settings["method"] is not None
    )
    result = tune(
        load_task(copied / Path(arguments["task_file"]).name),
        open_table(arguments),
        out=folder / "training" if tunes_training else copied / TUNED_FILE,
        load_options=get_load_options(arguments),
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
