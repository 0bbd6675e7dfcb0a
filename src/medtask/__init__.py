"""Label medical text with open language models on your own hardware.

The names below are the public ones. Each is loaded when it is first touched, so that `import
medtask` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from medtask.privacy import close_egress

if TYPE_CHECKING:
    from medtask.data.read import read_table
    from medtask.data.table import Table
    from medtask.decision.predictor import predict
    from medtask.engines.base import Engine
    from medtask.engines.registry import load_model
    from medtask.errors import MedtaskError
    from medtask.records import Answer, Status
    from medtask.runs.answered import open_answers
    from medtask.runs.evaluation import Wanted, evaluate_answers
    from medtask.runs.local import run
    from medtask.tasks.load import load_task
    from medtask.tasks.task import Task

    __version__: str

# Libraries read their telemetry switches when they are imported, so this comes before any of them.
close_egress()

_ROOMS = {
    "Answer": "medtask.records",
    "Engine": "medtask.engines.base",
    "MedtaskError": "medtask.errors",
    "Status": "medtask.records",
    "Table": "medtask.data.table",
    "Task": "medtask.tasks.task",
    "Wanted": "medtask.runs.evaluation",
    "evaluate_answers": "medtask.runs.evaluation",
    "load_model": "medtask.engines.registry",
    "load_task": "medtask.tasks.load",
    "open_answers": "medtask.runs.answered",
    "predict": "medtask.decision.predictor",
    "read_table": "medtask.data.read",
    "run": "medtask.runs.local",
}

__all__ = [
    "Answer",
    "Engine",
    "MedtaskError",
    "Status",
    "Table",
    "Task",
    "Wanted",
    "__version__",
    "evaluate_answers",
    "load_model",
    "load_task",
    "open_answers",
    "predict",
    "read_table",
    "run",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("medtask")
    elif name in _ROOMS:
        value = getattr(import_module(_ROOMS[name]), name)
    else:
        raise AttributeError(f"module 'medtask' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
