"""Label medical text with open language models on your own hardware.

The names below are the public ones. Each is loaded when it is first touched, so that `import
medtask` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from medtask.privacy import disable_telemetry

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.engines.registry import load_model
    from medtask.errors import MedtaskError
    from medtask.prediction.predictor import predict
    from medtask.records import Answer, Status
    from medtask.runs.answer_table import open_answers
    from medtask.runs.judging import judge
    from medtask.runs.local_run import run
    from medtask.runs.run_evaluation import EvaluationOptions, evaluate_answers
    from medtask.tables.read import read_table
    from medtask.tables.table import Table
    from medtask.tasks.load import load_task
    from medtask.tasks.task import Task

    __version__: str

# Libraries read their telemetry switches when they are imported, so this comes before any of them.
disable_telemetry()

_PUBLIC_MODULES = {
    "Answer": "medtask.records",
    "Engine": "medtask.engines.base",
    "MedtaskError": "medtask.errors",
    "Status": "medtask.records",
    "Table": "medtask.tables.table",
    "Task": "medtask.tasks.task",
    "EvaluationOptions": "medtask.runs.run_evaluation",
    "evaluate_answers": "medtask.runs.run_evaluation",
    "judge": "medtask.runs.judging",
    "load_model": "medtask.engines.registry",
    "load_task": "medtask.tasks.load",
    "open_answers": "medtask.runs.answer_table",
    "predict": "medtask.prediction.predictor",
    "read_table": "medtask.tables.read",
    "run": "medtask.runs.local_run",
}

__all__ = [
    "Answer",
    "Engine",
    "EvaluationOptions",
    "MedtaskError",
    "Status",
    "Table",
    "Task",
    "__version__",
    "evaluate_answers",
    "judge",
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
    elif name in _PUBLIC_MODULES:
        value = getattr(import_module(_PUBLIC_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'medtask' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
