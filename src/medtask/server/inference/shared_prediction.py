"""`medtask.predict` with models that requests share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.registry import choose_engine
from medtask.runs.predictions import predict
from medtask.server.inference.model_pool import ModelPool
from medtask.server.inference.requests import ModelRequest
from medtask.server.inference.shared_engine import SharedEngine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medtask.records import Answer
    from medtask.tasks.task import Task


def predict_shared(
    pool: ModelPool,
    task: Task,
    model: str,
    rows: Iterable[Mapping[str, object]],
    request: ModelRequest,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> Iterator[Answer]:
    """Answer rows as `medtask.predict` does, in passes that other requests share.

    Args:
        pool: The loaded models.
        task: The task.
        model: The reference of the model.
        rows: Mappings from column to value.
        request: The deadline and the cancellation of the request.
        options: Options of loading the model; further passes use only its permission of remote
            servers.

    Raises:
        MedtaskError: See `medtask.predict`; or the request ended early.
    """
    further = dict.fromkeys(one.model for one in task.passes if one.model is not None)
    with ExitStack() as stack:

        def share(reference: str, chosen: LoadOptions) -> SharedEngine:
            worker = stack.enter_context(pool.use(reference, chosen))
            return SharedEngine(worker, request, task.fingerprint or task)

        remote_only = replace(DEFAULT_OPTIONS, allow_remote=options.allow_remote)
        engine = share(model, options)
        pass_engines = {
            name: share(name, remote_only if _is_server(name) else DEFAULT_OPTIONS)
            for name in further
        }
        yield from predict(task, engine, rows, pass_engines=pass_engines, on_note=lambda note: None)


def _is_server(reference: str) -> bool:
    return choose_engine(reference).spec.traits.server
