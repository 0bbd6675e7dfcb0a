"""Runs in shards on Ray: an actor pool answers the shards, and this process merges them.

Each shard has a ledger in the run folder. So Ray only starts the work: after the death of an actor,
another one asks for the rows that the ledger of its shard does not have.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from medtask.engines.registry import check_options, choose_engine, load_model
from medtask.errors import (
    EngineError,
    InputError,
    MedtaskError,
    RunLocked,
    RunMismatch,
    StorageError,
    UsageError,
)
from medtask.runs.local_run import Run
from medtask.runs.lock import lock_run
from medtask.runs.progress import NullRunObserver, RunObserver
from medtask.runs.run_values import ShardedRunValues
from medtask.scaling.batch_answers import limit_threads
from medtask.scaling.local_shards import keep_models
from medtask.scaling.merging import merge
from medtask.scaling.plan import RunPlan, read_plan
from medtask.scaling.planning import make_request, open_plan
from medtask.scaling.ray_workers import RayWorkers, connect_ray, require_ray
from medtask.scaling.shard_session import ShardWork, answer_shard
from medtask.tables.read import read_table, validate_table
from medtask.tables.table import Table
from medtask.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_ROWS, MAX_SHARDS = 4096, 1000
_ERRORS = {
    kind.exit_code: kind
    for kind in (UsageError, InputError, EngineError, RunLocked, StorageError, RunMismatch)
}


def run_on_ray(
    task: Task,
    model: str,
    table: object,
    *,
    address: str = "local",
    workers: RayWorkers | None = None,
    shards: int | None = None,
    flip_check: int = 0,
    force_lock: bool = False,
    progress: RunObserver | None = None,
    **options: Unpack[ShardedRunValues],
) -> Run:
    """Answer every row of a table on a Ray cluster, or continue such a run.

    The rows are split into shards. Actors hold the model and answer one shard after the other; each
    shard keeps its answers in the run folder. When all are complete, this process merges them. The
    task file, the table, the run folder and the model must be readable under the same paths on all
    nodes.

    Args:
        task: A task that was loaded from a file.
        model: The model's reference.
        table: A path, or another input of `read_table` that consists of files.
        address: The cluster: "host:port", "auto" on one of its nodes, or "local" for a Ray on this
            machine.
        workers: The actors; default: one, with one core.
        shards: How many shards the rows are split into; default: one for 4,096 rows, at most 1,000.
        flip_check: Ask this many rows again in this process, which loads the model for that; see
            `medtask.run`.
        force_lock: Take over folders that are locked by a process on another host.
        progress: Receives notes and progress.
        **options: Options of `medtask.run` (out, limit, gold, formats, max_error_rate, calibrated,
            baselines, wide, new_run), and of `medtask.load_model` for each actor.

    Returns:
        The result of the merged run, as of `medtask.run`.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: The task cannot be answered in shards, or an option is not valid.
        InputError: The task and the table do not fit.
        RunMismatch: The folder belongs to another task, table, model or number of shards.
        RunLocked: Another process answers this run.
        EngineError: The cluster or the model does not answer. Answers are kept, and the same call
            continues.
    """
    require_ray()
    observer, opened = progress or NullRunObserver(), read_table(table)
    request = make_request(
        task, opened, model, shards or _choose_shards(opened, options.get("limit")), options
    )
    check_options(choose_engine(model).spec, request.model[1])
    plan, notes = open_plan(request)
    for note in notes:
        observer.on_note(note)
    with lock_run(plan.folder, force=force_lock):
        _answer_shards(plan, address, workers or RayWorkers(), observer, force_lock=force_lock)
    return merge(plan.folder, flip_check=flip_check, force_lock=force_lock, progress=progress)


def _choose_shards(table: Table, limit: int | None) -> int:
    # The number of workers has no part in it: the run can be continued with others.
    rows = validate_table(table, None).rows
    return min(MAX_SHARDS, max(1, -(-min(rows, limit or rows) // SHARD_ROWS)))


def _answer_shards(
    plan: RunPlan, address: str, workers: RayWorkers, observer: RunObserver, *, force_lock: bool
) -> None:
    """Answer the missing shards; raises the error of the first that failed, after all others."""
    missing = {
        folder.shard.number: folder.shard.rows
        for folder in plan.list_folders()
        if not folder.read_done()
    }
    done = plan.rows - sum(missing.values())
    observer.on_start(plan.rows, done)
    if not missing:
        return
    errors: list[MedtaskError] = []
    job = ShardJob(str(plan.folder), workers.cpus, force_lock)
    with connect_ray(address):
        import ray

        numbers = ray.data.from_items(
            [{"shard": number} for number in missing], override_num_blocks=len(missing)
        )
        results = numbers.map_batches(
            _ShardWorker,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="pyarrow",
            # A shard that waits for a busy actor could be answered by another one.
            **workers.to_arguments(max_tasks_in_flight_per_actor=1),
        )
        for result in results.iter_rows():
            if result["error"] is None:
                done += missing[result["shard"]]
                observer.on_batch(done, 0, 0)
            else:
                errors.append(_report_failure(result, observer))
    if errors:
        raise errors[0]
    observer.on_finish()


def _report_failure(result: dict[str, Any], observer: RunObserver) -> MedtaskError:
    """The error of a shard, of the class with its exit code."""
    kind = _ERRORS.get(result["exit_code"], MedtaskError)
    error = kind(result["error"], fix=result["fix"])
    observer.on_note(f"shard {result['shard']} failed: {error}")
    return error


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What an actor needs: the run folder, its cores, and whether locks are taken over."""

    folder: str
    cpus: int
    force_lock: bool


class _ShardWorker:
    """An actor of Ray Data, which holds the model and answers one shard after the other."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._models = ExitStack()
        self._work: ShardWork | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        result: dict[str, Any] = {"shard": batch["shard"][0].as_py()}
        try:
            # Here and not when the actor is created: Ray would hide the error.
            self._work = self._work or self._open()
            answer_shard(self._work, result["shard"])
        except MedtaskError as error:
            result |= {"error": str(error), "fix": error.fix, "exit_code": error.exit_code}
        names = {"shard": pa.int64(), "error": pa.string(), "fix": pa.string()}
        schema = pa.schema({**names, "exit_code": pa.int64()})
        return pa.Table.from_pylist([result], schema=schema)

    def _open(self) -> ShardWork:
        plan = read_plan(Path(self._job.folder))
        options = limit_threads(plan.model, plan.load_options, self._job.cpus)
        work = ShardWork(
            plan,
            *plan.open(),
            lambda: load_model(plan.model, options),
            force_lock=self._job.force_lock,
        )
        return self._models.enter_context(keep_models(work))
