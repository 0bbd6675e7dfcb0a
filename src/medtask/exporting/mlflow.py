"""Export as an MLflow model: a Python function on data frames, as code and not as a pickle."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.display import format_path
from medtask.engines.base import Engine
from medtask.engines.registry import load_model
from medtask.errors import UsageError, require_packages
from medtask.exporting.merged import write_merged
from medtask.exporting.source import CausalModel, ExportSource
from medtask.exporting.targets import MLFLOW_MODEL, ExportRequest
from medtask.exporting.trained_copy import copy_trained
from medtask.privacy import block_network, disable_telemetry
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.serialization import task_from_dict, task_to_dict
from medtask.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

TASK_FILE = "task.json"
COLUMNS = ("answer", "confidence", "status", "reason")
_EXAMPLES = ("Resection of the sigmoid colon because of cancer.", "Removal of a skin lesion.")
_MODEL_CODE = '''"""The model that MLflow loads; medtask must be installed."""

from mlflow.models import set_model

from medtask.exporting.pyfunc_model import MedtaskModel

set_model(MedtaskModel())
'''
_BYTECODE_FOLDER = "__pycache__"
_NO_BYTECODE = """A file and not a folder, so that Python writes no bytecode here.

The code that is loaded is the code whose SHA-256 is in the manifest.
"""


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    task = _find_task(request)
    pyfunc = _import_pyfunc()
    parts = draft / "parts"  # MLflow copies them
    parts.mkdir()
    model = parts / Path(MLFLOW_MODEL).name
    _write_weights(request.source, model)
    content = {**task_to_dict(task), "name": task.name, "fingerprint": task.fingerprint}
    (parts / TASK_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    code = parts / "medtask_model.py"
    code.write_text(_MODEL_CODE, encoding="utf-8")
    frame = _make_example(task)
    with _silence_mlflow():
        pyfunc.save_model(
            draft / "mlflow",
            python_model=str(code),
            artifacts={"task": str(parts / TASK_FILE), "model": str(model)},
            signature=_make_signature(task),
            input_example=frame,
            pip_requirements=_list_requirements(request.source),
        )
    shutil.rmtree(parts)
    for path in (draft / "mlflow").iterdir():
        path.rename(draft / path.name)
    (draft / "mlflow").rmdir()
    shutil.rmtree(draft / _BYTECODE_FOLDER, ignore_errors=True)  # MLflow has run the code
    (draft / _BYTECODE_FOLDER).write_text(_NO_BYTECODE, encoding="utf-8")
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: the function is loaded and called as MLflow does it."""
    frame = _make_example(_find_task(request))
    with _silence_mlflow():
        answers = _import_pyfunc().load_model(str(draft)).predict(frame)
    if list(answers.columns) != list(COLUMNS) or len(answers) != len(frame):
        return ["the function does not return one answer for each row"]
    failed = int((answers["status"] == "failed").sum())
    return [f"the function fails in {failed} of {len(frame)} rows"] if failed else []


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`."""
    return load_model(str(draft / MLFLOW_MODEL))


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: register the model, if a name is given."""
    if not request.register:
        return ()
    from medtask.runs.tracking.mlflow import open_mlflow

    phi = request.source.phi != "no"
    tracker = open_mlflow("", runs_folder=path.parent, experiment="medtask", phi=phi)
    if tracker.store.addresses:
        raise UsageError(
            f"{tracker.store.display_name} cannot read {format_path(path)}",
            fix=f"upload it with mlflow.register_model, with the name {request.register}",
        )
    return (f"registered as models:/{request.register}/{_register(tracker.client, request, path)}",)


def _register(client: Any, request: ExportRequest, path: Path) -> str:
    """Register the folder as a version; returns its number."""
    from mlflow.exceptions import MlflowException

    try:
        if not client.search_registered_models(f"name = '{request.register}'"):
            client.create_registered_model(request.register)
        registered = client.create_model_version(request.register, path.resolve().as_uri())
    except MlflowException as error:
        raise UsageError(
            f"MLflow cannot register {request.register!r}: {error.error_code}",
            fix="choose another name with --register",
        ) from None
    return str(registered.version)


def _import_pyfunc() -> Any:
    disable_telemetry()  # before the import: MLflow ignores later changes
    with _silence_mlflow():
        require_packages("mlflow.pyfunc", "pandas", fix="pip install 'medtask[track]' pandas")
        import mlflow.pyfunc
    return mlflow.pyfunc


@contextmanager
def _silence_mlflow() -> Iterator[None]:
    """Block other machines, and suppress what MLflow logs and warns about its own code."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    with block_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


def _find_task(request: ExportRequest) -> Task:
    """The named task, or the one that the model was trained for."""
    task = request.task or _find_trained_task(request.source)
    if task is None:
        raise UsageError(
            "the function of MLflow answers a task, and none is named",
            fix="add --task TASK DATA",
        )
    if task.examples or task.pool or task.passes or task.reasoning:
        raise UsageError(
            "a task with examples, further passes or reasoning cannot be exported to MLflow",
            fix="leave them out of the task, or train a model for it",
        )
    return task


def _find_trained_task(source: ExportSource) -> Task | None:
    tasks = source.training.get("tasks", ())
    if len(tasks) != 1:
        return None
    identity = source.training.get("identity", {})
    return task_from_dict(
        str(identity.get("task1.name", source.name)),
        tasks[0],
        fingerprint=str(identity.get("task1.fingerprint", "")),
    )


def _write_weights(source: ExportSource, folder: Path) -> None:
    """A copy of a trained folder, or a language model with its adapter merged."""
    if source.engine != "hf":
        if source.folder is None:
            raise UsageError(
                f"{source.reference} is not a folder, and --to mlflow copies a folder",
                fix="train a model from it, or name a language model",
            )
        copy = copy_trained if source.metadata is not None else shutil.copytree
        copy(source.folder, folder)
        return
    folder.mkdir()
    with CausalModel(source) as model:
        write_merged(model, folder)


def _make_example(task: Task) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: list(_EXAMPLES) for name in sorted(find_prompt_columns(task))})


def _make_signature(task: Task) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    inputs = [ColSpec(DataType.string, name) for name in sorted(find_prompt_columns(task))]
    types = (DataType.string, DataType.double, DataType.string, DataType.string)
    outputs = [
        ColSpec(kind, name, required=False) for kind, name in zip(types, COLUMNS, strict=True)
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _list_requirements(source: ExportSource) -> list[str]:
    extra = "[hf]" if source.engine != "linear" else ""
    return [f"medtask{extra}=={version('medtask')}", f"mlflow-skinny=={version('mlflow-skinny')}"]
