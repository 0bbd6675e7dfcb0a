"""`medtask merge`: the answers of all shards of a run become its tables and its report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, FlipCheck, Quiet, ShardedRun


def merge(
    run: ShardedRun,
    flip_check: FlipCheck = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take over a merge whose process on another host has died."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge the shards of a run into its tables and its report.

    It is refused while shards are missing. Merging again changes nothing.
    """
    from medtask.cli.commands.run import print_result
    from medtask.cli.model_options import load_shown_engine
    from medtask.cli.progress import RunProgressDisplay
    from medtask.scaling.merging import merge as merge_shards
    from medtask.scaling.plan import read_plan

    display = RunProgressDisplay(quiet=quiet, activity="Merging")
    plan = read_plan(run)
    display.model_title = plan.model
    with display, redirect_stdout(sys.stderr):
        result = merge_shards(
            run,
            flip_check=flip_check,
            load=partial(load_shown_engine, plan.model, plan.load_options, display),
            force_lock=force,
            progress=display,
        )
    show.print_json(result.to_json()) if as_json else print_result(result)
    raise typer.Exit(result.exit_code)
