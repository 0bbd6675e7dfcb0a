"""Ray: `run` answers a table on a cluster, `predict` adds a run's columns to a Dataset.

Ray itself (`pip install 'medtask[ray]'`) is not needed to import this module.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from medtask.engines.load_options import LoadOptions, LoadOptionValues
from medtask.errors import UsageError
from medtask.prediction.predictor import WINDOW
from medtask.scaling.batch_answers import (
    BatchJob,
    answer_batches,
    limit_threads,
    open_worker_model,
    prepare_job,
)
from medtask.scaling.ray_shards import run_on_ray as run
from medtask.scaling.ray_workers import RayWorkers
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RayWorkers", "predict", "run"]


def predict(
    ds: Any,
    task: Task | str | Path,
    model: str,
    *,
    workers: RayWorkers | None = None,
    batch_rows: int = WINDOW,
    calibrated: bool = True,
    **options: Unpack[LoadOptionValues],
) -> Any:
    """Answer every row of a Ray Dataset.

    A pool of actors holds the model, one copy each, and answers rows as they stream through
    it: a table does not have to fit into memory. An actor that dies is replaced by Ray, and
    the rows that it had not returned are asked again. medtask and the model's files must be present
    on the nodes. Like every Dataset the result is computed when it is written or read.

    Args:
        ds: The rows, a ``ray.data.Dataset``, as of ``ray.data.read_parquet``.
        task: The task, or its file or folder.
        model: The reference of the model, as of `medtask.load_model`.
        workers: The actors; default: one, with one core.
        batch_rows: Rows that a worker answers at a time; fewer divide small tables more evenly.
        calibrated: Apply the calibration and the thresholds of this task and model, if there are
            any.
        options: Fields of `LoadOptions`, such as ``dtype``.

    Returns:
        A Dataset with the columns of ``ds`` and those of ``answers.parquet`` of a run: answer,
        confidence, status, reason, pass, and for most kinds probabilities. An input column with
        such a name gets the prefix ``input_``. Rows without an answer have a status and a reason.

    Raises:
        TaskFaults: The task is not valid, or uses columns that are missing in ``ds``.
        InputError: The task fits thresholds, which requires a run with gold.
        EngineError: The reference of the model is not valid. Errors of workers are raised when
            the result is computed, as Ray's ``RayTaskError``.
        UsageError: The engine does not support an option, or ``batch_rows`` is not valid.

    Example:
        >>> ds = ray.data.read_parquet("/shared/notes")
        >>> answers = medtask.ray.predict(ds, "protocol", "/shared/model", workers=RayWorkers(8))
        >>> answers.write_parquet("/shared/protocols")
    """
    if batch_rows < 1:
        raise UsageError(f"{batch_rows} rows are not a batch", fix="set batch_rows to 1 or more")
    pool = workers or RayWorkers()
    job = prepare_job(
        task if isinstance(task, Task) else load_task(task),
        model,
        ds.columns(),
        LoadOptions(**options),
        calibrated=calibrated,
    )
    job = replace(job, options=limit_threads(job.model, job.options, pool.cpus), window=batch_rows)
    return ds.map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=batch_rows,
        batch_format="pyarrow",
        **pool.to_arguments(),
    )


class _Worker:
    """An actor of Ray Data, which holds the model."""

    def __init__(self, job: BatchJob) -> None:
        self.model = open_worker_model(job)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        return pa.concat_tables(answer_batches(self.model, [batch]))
