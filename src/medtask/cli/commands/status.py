"""`medtask status`: how far the shards of a run are."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, ShardedRun
from medtask.display import format_clock, format_count

if TYPE_CHECKING:
    from medtask.scaling.run_status import RunStatus, ShardStatus

_MAX_LISTED = 50


def status(run: ShardedRun, as_json: AsJson = False) -> None:
    """Show the progress of a run in shards: rows, speed, failures."""
    from medtask.scaling.run_status import status as read_status

    found = read_status(run)
    show.print_json(found.to_json()) if as_json else _print_status(found)


def _print_status(found: RunStatus) -> None:
    from medtask.scaling.run_status import SHARD_STATES

    counted = [(state, found.count(state)) for state in SHARD_STATES]
    facts = [f"{count} {state}" for state, count in counted if count]
    show.print_line(f"{format_count(len(found.shards), 'shard')}: {', '.join(facts)}")
    speed = f"   {found.rows_per_s:,.1f} rows/s" if found.rows_per_s else ""
    left = "" if found.left_s is None else f"   {format_clock(found.left_s)} left"
    show.print_line(f"{found.done:,} of {format_count(found.rows, 'row')}{speed}{left}")
    listed = [shard for shard in found.shards if shard.state != "finished"]
    for shard in listed[:_MAX_LISTED]:
        show.print_line(_describe_shard(shard))
    if len(listed) > _MAX_LISTED:
        show.print_line(f"... and {len(listed) - _MAX_LISTED} more; --json lists all")
    if found.merged:
        show.print_line(f"The shards are merged: {found.folder}/report.html")
    elif not listed:
        show.print_line(f"All shards are complete: medtask merge {shlex.quote(str(found.folder))}")
    elif found.count("interrupted", "killed", "failed"):
        show.print_line(
            "Submit the run again with --out to continue these shards, or answer them here: "
            f"medtask shard {shlex.quote(str(found.folder))}"
        )


def _describe_shard(shard: ShardStatus) -> str:
    speed = f"   {shard.rows_per_s:,.1f} rows/s" if shard.rows_per_s else ""
    left = "" if shard.left_s is None else f"   {format_clock(shard.left_s)} left"
    attempts = f"   {shard.attempts} attempts" if shard.attempts > 1 else ""
    reason = f"   {shard.reason}" if shard.reason else ""
    return (
        f"  {shard.number:>4}  {shard.state:<11} {shard.done:,} of {shard.rows:,}"
        f"{speed}{left}{attempts}{reason}"
    )
