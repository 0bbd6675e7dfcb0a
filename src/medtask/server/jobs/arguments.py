"""What the functions of jobs make of their arguments: tasks, tables and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.engines.load_options import LoadOptions
    from medtask.server.jobs.observer import JobObserver
    from medtask.tables.table import Table
    from medtask.tasks.task import Task

JobArguments = Mapping[str, Any]


def open_task(arguments: JobArguments) -> Task:
    """Load the task in ``task_file``."""
    from medtask.tasks.load import load_task

    file = Path(arguments["task_file"])
    return load_task(file, root=file.parent)


def open_table(arguments: JobArguments) -> Table:
    """Open the data set in ``table``, with its ``read_options``."""
    from medtask.tables.read import read_table
    from medtask.tables.read_options import ReadOptions

    return read_table(arguments["table"], ReadOptions(**arguments["read_options"]))


def get_load_options(arguments: JobArguments) -> LoadOptions:
    """The options in ``load_options``."""
    from medtask.engines.load_options import LoadOptions

    return LoadOptions(**arguments["load_options"])


def make_loader(arguments: JobArguments, observer: JobObserver) -> Callable[[], Engine]:
    """A function that loads the model in ``model``, and reports it."""
    from medtask.engines.registry import load_model

    reference: str = arguments["model"]
    # The log is for users: a stored model is not named by its folder.
    is_stored = Path(reference).is_absolute()

    def load() -> Engine:
        observer.on_load(f"model {Path(reference).name}" if is_stored else reference)
        return load_model(reference, get_load_options(arguments))

    return load


def drop_paths(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without the server's paths."""
    return {name: value for name, value in document.items() if name not in ("folder", "exit_code")}
