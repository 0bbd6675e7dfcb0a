"""`medtask submit`: answers a table on a Slurm cluster, as an array of jobs."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    ModelName,
    OnDuplicate,
    TaskPath,
    open_table,
)
from medtask.cli.model_options import add_load_options
from medtask.cli.run_options import add_run_options
from medtask.cli.table_options import add_read_options
from medtask.display import format_count
from medtask.engines.load_options import LoadOptions
from medtask.errors import UsageError
from medtask.runs.run_values import RunValues
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.scaling.submit import SubmittedRun


@add_read_options
@add_load_options
@add_run_options
def submit(
    task: TaskPath,
    data: DataSource = None,
    model: ModelName = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit to Slurm.")] = False,
    shards: Annotated[
        int, typer.Option(min=1, metavar="N", help="Split the rows into N shards.")
    ] = 1,
    gpus: Annotated[int, typer.Option(min=0, metavar="N", help="GPUs of each shard.")] = 0,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time limit of each shard, as in 8:00:00; what is not done by then continues in "
            "another job.",
        ),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Partition of the cluster.")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores of each shard.")
    ] = None,
    job_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of each shard's job, as in 64G.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Shards that run at the same time.")
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION", help="A further option of sbatch, as in account=radiology; repeat it."
        ),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND", help='Runs first in each job, as in "module load cuda"; repeat it.'
        ),
    ] = None,
    stop_seconds: Annotated[
        int,
        typer.Option(
            min=10, metavar="N", help="Stop a shard this many seconds before its time limit."
        ),
    ] = 120,
    vllm_server: Annotated[
        bool,
        typer.Option(
            "--vllm-server",
            help="Start a vLLM server in each job, which spreads the model over all its GPUs.",
        ),
    ] = False,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    load_options: LoadOptions,
    run_options: RunValues,
    no_merge: Annotated[
        bool, typer.Option("--no-merge", help="Do not submit the job that merges the shards.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script; write and submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer a table on a Slurm cluster, as an array of jobs.

    The same command submits again what is neither complete nor in the queue. Task, table and run
    folder must be on a disk that all machines share.
    """
    from medtask.scaling.slurm_script import SlurmOptions
    from medtask.scaling.submit import submit as submit_run
    from medtask.tasks.load import load_task

    if not slurm and not dry_run:
        raise UsageError(
            "no cluster is named",
            fix="add --slurm; on one machine: medtask run TASK DATA --shards N",
        )
    if data == "-":
        raise UsageError(
            "the jobs cannot read standard input", fix="write the table to a file, and name it"
        )
    loaded_task = load_task(task)
    options = SlurmOptions(
        time=time,
        partition=partition,
        gpus=gpus,
        cpus=cpus,
        memory=job_memory,
        max_running=max_running,
        extra=tuple(sbatch or ()),
        setup=tuple(setup or ()),
        stop_seconds=stop_seconds,
        vllm=vllm_server,
    )
    read_options = replace(read_options, on_duplicate=on_duplicate)
    with open_table(loaded_task, data, read_options) as table:
        result = submit_run(
            loaded_task,
            table,
            model=model,
            shards=shards,
            slurm=options,
            merge=not no_merge,
            dry_run=dry_run,
            **run_options,
            **load_options.to_values(),
        )
    for note in result.notes:
        show.print_note(note)
    if as_json:
        show.print_json(result.to_json())
    elif dry_run:
        show.print_line(result.script.rstrip("\n"))
    else:
        _print_submission(result)


def _print_submission(result: SubmittedRun) -> None:
    if not result.job:
        return
    show.print_line(
        f"Submitted job {result.job}: {format_count(len(result.shards), 'shard')} of "
        f"{format_count(result.rows, 'row')}"
    )
    if result.merge_job:
        show.print_line(f"Submitted job {result.merge_job}, which merges them when they have ended")
    show.print_line(f"Progress:  medtask status {shlex.quote(str(result.folder))}")
