"""Answers for Spark DataFrames: `predict` adds the columns of a run's answer tables.

Spark itself (`pip install 'medtask[spark]'`, with Java) is not needed to import this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from medtask.engines.load_options import LoadOptions, LoadOptionValues
from medtask.engines.registry import choose_engine
from medtask.scaling.batch_answers import (
    BatchJob,
    answer_batches,
    limit_threads,
    open_worker_model,
    prepare_job,
)
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa


def predict(
    df: Any,
    task: Task | str | Path,
    model: str,
    *,
    calibrated: bool = True,
    **options: Unpack[LoadOptionValues],
) -> Any:
    """Answer every row of a Spark DataFrame.

    The model is loaded once in each Python worker, by its reference; medtask and the model's files
    must be present on the executors. Like every DataFrame the result is computed by an action,
    and again by each further one: write it to a table before it is counted or shown.

    Spark's resources are used: a task's GPU (``spark.task.resource.gpu.amount``) unless ``device``
    is given, and ``spark.task.cpus`` threads unless ``threads`` is.

    Args:
        df: The rows, a ``pyspark.sql.DataFrame``; also one of Spark Connect, or a stream.
        task: The task, or its file or folder.
        model: The reference of the model, as of `medtask.load_model`.
        calibrated: Apply the calibration and the thresholds of this task and model, if there are
            any.
        options: Fields of `LoadOptions`, such as ``dtype`` and ``device``.

    Returns:
        A DataFrame with the columns of ``df`` and those of ``answers.parquet`` of a run: answer,
        confidence, status, reason, pass, and for most kinds probabilities. An input column with
        such a name, in any case, gets the prefix ``input_``. Rows without an answer have a status
        and a reason.

    Raises:
        TaskFaults: The task is not valid, or uses columns that are missing in ``df``.
        InputError: The task fits thresholds, which requires a run with gold.
        EngineError: The reference of the model is not valid. Errors of workers, such as a missing
            model, are raised by the action, as Spark's ``PythonException``.
        UsageError: The engine does not support an option.

    Example:
        >>> answers = medtask.spark.predict(spark.table("notes"), "protocol", "/models/protocol")
        >>> answers.write.mode("overwrite").saveAsTable("protocols")
    """
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructField, StructType

    loaded_task = task if isinstance(task, Task) else load_task(task)
    job = prepare_job(
        loaded_task,
        model,
        df.columns,
        LoadOptions(**options),
        calibrated=calibrated,
        ignore_case=True,  # as Spark's names of columns
    )
    kept = [
        StructField(job.columns[one.name], one.dataType, one.nullable, one.metadata)
        for one in df.schema.fields
    ]
    schema = StructType([*kept, *from_arrow_schema(job.answer_schema).fields])

    def answer_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return _answer_partition(job, batches)

    return df.mapInArrow(answer_partition, schema)


def _answer_partition(job: BatchJob, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Answer the rows of one partition, in a Python worker of Spark."""
    for table in answer_batches(open_worker_model(_use_task_resources(job)), batches):
        yield from table.combine_chunks().to_batches()


def _use_task_resources(job: BatchJob) -> BatchJob:
    """The job with the GPU and the number of threads that Spark has given to the task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is None:
        return job
    gpu = context.resources().get("gpu")
    if gpu and job.options.device == "auto":
        supported = choose_engine(job.model).spec.option_fields
        if "device" in supported:
            device = f"cuda:{gpu.addresses[0]}"
            job = replace(job, options=replace(job.options, device=device))
    return replace(job, options=limit_threads(job.model, job.options, context.cpus()))
