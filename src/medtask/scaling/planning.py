"""Planning of a run in shards, and finding the plan that the same call continues."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medtask.engines.load_options import LoadOptions
from medtask.errors import RunMismatch, UsageError
from medtask.runs.folder import create_run_folder, open_run_folder, open_runs_folder
from medtask.runs.manifest import format_differences, read_manifest
from medtask.runs.run_setup import prepare_run
from medtask.runs.run_values import ShardedRunValues
from medtask.scaling.plan import (
    PlannedOptions,
    RunPlan,
    find_plan,
    has_plan,
    make_plan,
    read_plan,
    write_plan,
)
from medtask.scaling.shards import choose_shards
from medtask.tables.table import Table
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A run in shards.

    Attributes:
        task: The task.
        table: The table.
        model: The model's reference, and the options with which it is loaded.
        options: The options of the run.
        shards: The number of shards; None for one that fits the workers.
        workers: Processes on this machine that answer them. With one, the calling process does.
        new_run: Whether to start a new run instead of continuing one.
        devices: The GPUs of which each worker sees one; empty for all.
        out: The run folder; None for the newest run of the same request next to the task file, or a
            new folder there.
    """

    task: Task
    table: Table
    model: tuple[str, LoadOptions]
    options: PlannedOptions
    shards: int | None
    workers: int = 1
    new_run: bool = False
    devices: tuple[str, ...] = ()
    out: Path | None = None


def make_request(
    task: Task, table: Table, model: str, shards: int | None, values: ShardedRunValues
) -> PlanRequest:
    """The request with the given options of a run and of loading its model.

    Raises:
        TypeError: There is no option with such a name.
    """
    given: dict[str, Any] = dict(values)
    out, new_run = given.pop("out", None), given.pop("new_run", False)
    names = [one.name for one in fields(PlannedOptions)]
    kept = {name: given.pop(name) for name in names if name in given}
    if kept.get("formats") is not None:
        kept["formats"] = tuple(kept["formats"])
    return PlanRequest(
        task,
        table,
        (model, LoadOptions(**given)),
        PlannedOptions(**kept),
        shards,
        new_run=new_run,
        out=None if out is None else Path(out),
    )


def open_plan(request: PlanRequest, *, dry_run: bool = False) -> tuple[RunPlan, list[str]]:
    """The plan of a run: the one that the same call has made, or a new one.

    Args:
        request: The run.
        dry_run: Write nothing.

    Returns:
        The plan, and notes on the task and the table.

    Raises:
        RunMismatch: The folder has another plan.
        UsageError: The task cannot be answered in shards, or the folder holds something else.
        InputError: The task and the table do not fit.
    """
    task, out = request.task, request.out
    if task.cascade_alpha is not None:
        raise UsageError(
            "a cascade decides over all rows together, and shards do not know each other",
            fix="remove `cascade:` from the task, or use medtask run without shards",
        )
    runs_folder = (task.source.parent if task.source else Path()) / "runs"
    target = out or runs_folder / "NEW"
    setup = prepare_run(
        task,
        request.table,
        request.options.to_run_options(target, allow_remote=request.model[1].allow_remote),
    )
    split = (setup.rows, request.shards or choose_shards(setup.rows, request.workers))
    draft = make_plan(target, task, request.table, request.model, request.options, split)
    if not request.new_run:
        if out is not None and has_plan(out):
            return _check_plan(read_plan(out), draft), setup.notes
        if out is None and (found := find_plan(runs_folder, draft)):
            return found, setup.notes
    if dry_run:
        return draft, setup.notes
    plan = replace(draft, folder=_create_folder(task, out, new_run=request.new_run).resolve())
    write_plan(plan)
    return plan, setup.notes


def _check_plan(plan: RunPlan, draft: RunPlan) -> RunPlan:
    if listed := format_differences(plan.describe(), draft.describe()):
        raise RunMismatch(
            f"{plan.folder} was planned as another run:{listed}",
            fix="undo the change, or give another folder with --out",
        )
    return plan


def _create_folder(task: Task, out: Path | None, *, new_run: bool) -> Path:
    if out is None:
        return create_run_folder(open_runs_folder(task))
    if not new_run and out.is_dir() and read_manifest(out):
        raise UsageError(
            f"{out} holds a run without shards",
            fix="give a new folder with --out, or add --new-run",
        )
    return open_run_folder(out, new_run=new_run)
