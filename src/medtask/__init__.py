"""Label medical text with open language models on your own hardware.

The names below are the public API. Each is loaded on first use, so that `import medtask` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from medtask.hardware import limit_thread_spinning
from medtask.privacy import disable_telemetry

if TYPE_CHECKING:
    from medtask.client import connect
    from medtask.engines.base import Engine as Model
    from medtask.engines.registry import load_model
    from medtask.errors import MedtaskError
    from medtask.exporting.bundle import bundle
    from medtask.exporting.export import export
    from medtask.records import Answer, Status
    from medtask.runs.audit import audit
    from medtask.runs.benchmark import Benchmark, benchmark
    from medtask.runs.comparison import Comparison, compare
    from medtask.runs.evaluation import evaluate
    from medtask.runs.gold_collection import gold
    from medtask.runs.judging import judge
    from medtask.runs.local_run import Run, run
    from medtask.runs.predictions import predict
    from medtask.runs.run_evaluation import Evaluation
    from medtask.scaling.merging import merge
    from medtask.scaling.run_status import status
    from medtask.scaling.slurm_script import SlurmOptions
    from medtask.scaling.submit import submit
    from medtask.tables.read import read_table
    from medtask.tables.table import Table
    from medtask.tasks.load import load_task
    from medtask.tasks.task import Task
    from medtask.training.search.tune import tune
    from medtask.training.train import train
    from medtask.training.trained_model import TrainedModel

    __version__: str

# Libraries read these variables when they are imported, so this comes before any of them.
disable_telemetry()
limit_thread_spinning()

_PUBLIC_MODULES = {
    "Answer": "medtask.records",
    "Benchmark": "medtask.runs.benchmark",
    "Comparison": "medtask.runs.comparison",
    "Evaluation": "medtask.runs.run_evaluation",
    "MedtaskError": "medtask.errors",
    "Model": "medtask.engines.base",
    "Run": "medtask.runs.local_run",
    "SlurmOptions": "medtask.scaling.slurm_script",
    "Status": "medtask.records",
    "Table": "medtask.tables.table",
    "Task": "medtask.tasks.task",
    "TrainedModel": "medtask.training.trained_model",
    "audit": "medtask.runs.audit",
    "benchmark": "medtask.runs.benchmark",
    "bundle": "medtask.exporting.bundle",
    "compare": "medtask.runs.comparison",
    "connect": "medtask.client",
    "evaluate": "medtask.runs.evaluation",
    "export": "medtask.exporting.export",
    "gold": "medtask.runs.gold_collection",
    "judge": "medtask.runs.judging",
    "load_model": "medtask.engines.registry",
    "load_task": "medtask.tasks.load",
    "merge": "medtask.scaling.merging",
    "predict": "medtask.runs.predictions",
    "read_table": "medtask.tables.read",
    "run": "medtask.runs.local_run",
    "status": "medtask.scaling.run_status",
    "submit": "medtask.scaling.submit",
    "train": "medtask.training.train",
    "tune": "medtask.training.search.tune",
}
_NAMES_IN_MODULES = {"Model": "Engine"}  # public names that differ from those of the definition

__all__ = [
    "Answer",
    "Benchmark",
    "Comparison",
    "Evaluation",
    "MedtaskError",
    "Model",
    "Run",
    "SlurmOptions",
    "Status",
    "Table",
    "Task",
    "TrainedModel",
    "__version__",
    "audit",
    "benchmark",
    "bundle",
    "compare",
    "connect",
    "evaluate",
    "export",
    "gold",
    "judge",
    "load_model",
    "load_task",
    "merge",
    "predict",
    "read_table",
    "run",
    "status",
    "submit",
    "train",
    "tune",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("medtask")
    elif name in _PUBLIC_MODULES:
        value = getattr(import_module(_PUBLIC_MODULES[name]), _NAMES_IN_MODULES.get(name, name))
    else:
        raise AttributeError(f"module 'medtask' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
