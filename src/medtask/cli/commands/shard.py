"""`medtask shard`: answers shards of a planned run; the command that a cluster's jobs call."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, Offline, Quiet, ShardedRun, disable_downloads

if TYPE_CHECKING:
    from medtask.scaling.shard_session import ShardResult


def shard(
    run: ShardedRun,
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="NUMBER",
            help="The number of a shard; default: one after the other, all that no other process "
            "answers.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take over a shard whose process on another host has died."),
    ] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer one shard of a run, or all that are not complete.

    Jobs of Slurm call it. With any other scheduler, or by hand on several machines, call it
    yourself: a complete shard is left as it is, and a stopped one continues.
    """
    from medtask.cli.model_options import load_shown_engine
    from medtask.cli.progress import RunProgressDisplay
    from medtask.scaling.local_shards import answer_shards
    from medtask.scaling.plan import read_plan

    disable_downloads(offline)
    plan = read_plan(run)
    display = RunProgressDisplay(quiet=quiet, ending="The shard is complete")
    results: list[ShardResult] = []
    with display, redirect_stdout(sys.stderr):
        for result in answer_shards(
            plan,
            None if number is None else [number],
            load=partial(load_shown_engine, plan.model, plan.load_options, display),
            observer=display,
            force_lock=force,
        ):
            results.append(result)
            if not as_json:
                display.print_line(f"shard {result.number} of {len(plan.shards)}: {result.state}")
    if as_json:
        show.print_json({"folder": str(plan.folder), "shards": [one.to_json() for one in results]})
    raise typer.Exit(max((one.exit_code for one in results), default=0))
