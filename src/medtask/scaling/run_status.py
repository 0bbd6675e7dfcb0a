"""`medtask.status`: how far the shards of a run are, from their folders and from Slurm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from medtask.display import format_list
from medtask.runs.lock import is_in_use
from medtask.runs.manifest import read_manifest
from medtask.scaling.plan import RunPlan, read_plan
from medtask.scaling.shards import ShardFolder
from medtask.scaling.slurm_jobs import read_queue

ShardState = Literal["finished", "running", "waiting", "interrupted", "killed", "failed"]
SHARD_STATES: tuple[ShardState, ...] = get_args(ShardState)
_ENDED_STATES: dict[str, ShardState] = {"interrupted": "interrupted", "failed": "failed"}
_PENDING = "PENDING"  # Slurm's word for a job that waits


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """The state of a shard.

    Attributes:
        number: The number of the shard.
        rows: Its rows.
        done: Rows that have an answer; while it runs, as of some seconds ago.
        state: "waiting" if no process has begun; "killed" if the last one ended without a word.
        rows_per_s: Speed of the running process; None if it is not known.
        left_s: Seconds until it is complete, at this speed; None if it does not run.
        attempts: How many processes have begun.
        reason: The error of a failed shard, or why Slurm lets it wait; "" for none.
    """

    number: int
    rows: int
    done: int
    state: ShardState
    rows_per_s: float | None = None
    left_s: float | None = None
    attempts: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of a run in shards.

    Attributes:
        folder: The run folder.
        shards: The state of each shard.
        merged: Whether the shards were merged.
    """

    folder: Path
    shards: tuple[ShardStatus, ...]
    merged: bool

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def done(self) -> int:
        """Rows that have an answer."""
        return sum(shard.done for shard in self.shards)

    @property
    def rows_per_s(self) -> float:
        """Speed of all running shards together."""
        return sum(shard.rows_per_s or 0.0 for shard in self.shards)

    @property
    def left_s(self) -> float | None:
        """Seconds until all rows are answered if as many shards run as now; None if none does."""
        left = [shard.left_s for shard in self.shards if shard.left_s is not None]
        if not left:
            return None
        # The slowest running shard can take longer than its share of the remaining rows.
        return max(*left, (self.rows - self.done) / self.rows_per_s) if self.rows_per_s else None

    def count(self, *states: ShardState) -> int:
        return sum(shard.state in states for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask status --json`` prints."""
        return {
            "folder": str(self.folder),
            "merged": self.merged,
            "rows": self.rows,
            "done": self.done,
            "rows_per_s": round(self.rows_per_s, 3),
            "left_s": None if self.left_s is None else round(self.left_s),
            "shards": [asdict(shard) for shard in self.shards],
        }


def status(run: str | Path) -> RunStatus:
    """The state of a run in shards: nothing is changed.

    Args:
        run: The run folder.

    Raises:
        InputError: The folder has no shards.
        StorageError: A file cannot be read.
    """
    plan = read_plan(Path(run))
    manifest = read_manifest(plan.folder)
    merged = manifest is not None and manifest.get("state") == "finished"
    return RunStatus(plan.folder, tuple(_list_shards(plan)), merged)


def describe_missing(plan: RunPlan) -> str:
    """ "2 (waiting), 5 (failed: the disk is full)": the shards that are not complete."""
    return format_list(
        [
            f"{one.number} ({one.state}{f': {one.reason}' if one.reason else ''})"
            for one in _list_shards(plan)
            if one.state != "finished"
        ],
        limit=20,
    )


_Queue = dict[int, tuple[str, str]] | None
"""See `read_queue`."""


def _list_shards(plan: RunPlan) -> list[ShardStatus]:
    queue = read_queue(plan.folder)
    found = [_inspect_shard(folder, queue) for folder in plan.list_folders()]
    return [
        # A process that has begun or ended between two reads looks killed: look again.
        _inspect_shard(plan.get_folder(one.number), queue) if one.state == "killed" else one
        for one in found
    ]


def _inspect_shard(folder: ShardFolder, queue: _Queue) -> ShardStatus:
    shard, attempts, progress = folder.shard, folder.read_attempts(), folder.read_progress()
    done = progress.done if progress else 0
    count = len(attempts)
    if folder.read_done():
        return ShardStatus(shard.number, shard.rows, shard.rows, "finished", attempts=count)
    last = attempts[-1] if attempts else None
    if last and last.state == "running" and _is_running(folder, queue):
        speed = progress.new / progress.seconds if progress and progress.seconds else None
        left = (shard.rows - done) / speed if speed else None
        return ShardStatus(shard.number, shard.rows, done, "running", speed, left, count)
    job_state, reason = (queue or {}).get(shard.number, ("", ""))
    if last is None or job_state == _PENDING:
        reason = f"in Slurm's queue: {reason}" if reason and job_state == _PENDING else ""
        return ShardStatus(shard.number, shard.rows, done, "waiting", attempts=count, reason=reason)
    state = _ENDED_STATES.get(last.state, "killed")
    return ShardStatus(shard.number, shard.rows, done, state, attempts=count, reason=last.error)


def _is_running(folder: ShardFolder, queue: _Queue) -> bool:
    in_use = is_in_use(folder.path)
    if in_use is None:  # by a process on another machine, which may have died
        return queue is None or queue.get(folder.shard.number, (_PENDING, ""))[0] != _PENDING
    return in_use
