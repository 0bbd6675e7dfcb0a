"""Runs in shards on one machine: planned, answered and merged by one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.records import Status
from medtask.runs.local_run import Run
from medtask.runs.manifest import read_manifest
from medtask.runs.progress import NullRunObserver, RunObserver
from medtask.scaling.local_shards import answer_shards
from medtask.scaling.merging import merge
from medtask.scaling.plan import RunPlan
from medtask.scaling.planning import PlanRequest, open_plan
from medtask.scaling.workers import answer_with_workers


def run_in_shards(
    request: PlanRequest,
    *,
    load: Callable[[], Engine] | None = None,
    flip_check: int = 0,
    force_lock: bool = False,
    progress: RunObserver | None = None,
) -> Run:
    """Answer a table in shards on this machine, and merge them; the same call continues.

    Args:
        request: The run.
        load: Loads the model in this process; default: as planned.
        flip_check: How many rows are asked again in this process; see `check_flips`.
        force_lock: Take over folders that are locked by a process on another host.
        progress: Receives notes and progress.

    Raises:
        UsageError, InputError, RunMismatch, RunLocked, EngineError, StorageError: As
            `medtask.run` and `medtask.merge`.
    """
    observer = progress or NullRunObserver()
    plan, notes = open_plan(request)
    for note in notes:
        observer.on_note(note)
    if request.workers > 1 or request.devices:
        code = answer_with_workers(
            plan, request.workers, observer, request.devices, force_lock=force_lock
        )
    else:
        shown = _SequentialObserver(plan, observer)
        results = answer_shards(plan, load=load, observer=shown, force_lock=force_lock)
        code = max((one.exit_code for one in results), default=0)
    if code:
        return _describe_interrupted(plan, code)
    return merge(
        plan.folder,
        flip_check=flip_check,
        load=load,
        force_lock=force_lock,
        progress=_MergeObserver(observer, frozenset(notes)),
    )


def check_sharded_options(*, cache: bool, cascade: float | None) -> None:
    """Raise UsageError for options of a run that its shards do not have."""
    for given, option, fix in (
        (cache, "the answer cache", "remove --cache: shards do not share answers"),
        (cascade is not None, "a cascade", "remove --cascade: it decides over all rows together"),
    ):
        if given:
            raise UsageError(f"a run in shards cannot use {option}", fix=fix)


def _describe_interrupted(plan: RunPlan, exit_code: int) -> Run:
    """The result of a run that was stopped by a signal."""
    counts: Counter[Status] = Counter()
    for folder in plan.list_folders():
        manifest = read_manifest(folder.path) or {}
        counts.update({Status(name): rows for name, rows in manifest.get("counts", {}).items()})
    return Run(
        folder=plan.folder,
        state="interrupted",
        model=plan.model,
        rows=plan.rows,
        statuses=counts,
        new_answers=0,
        tokens_read=0,
        tokens_reused=0,
        seconds=0.0,
        first_answer_s=None,
        rows_per_s=0.0,
        exit_code=exit_code,
    )


class _SequentialObserver(NullRunObserver):
    """Shows the shards of a run, which are answered one after the other, as one run."""

    def __init__(self, plan: RunPlan, observer: RunObserver) -> None:
        self._plan, self._observer = plan, observer
        self._notes: set[str] = set()
        self._started = False
        self._done_before = self._rows = self._read = self._reused = 0
        self._shard_read = self._shard_reused = 0

    def on_note(self, text: str) -> None:
        if text not in self._notes and not text.startswith("resuming "):
            self._notes.add(text)
            self._observer.on_note(text)

    def on_start(self, rows: int, done: int) -> None:
        self._rows = rows
        if not self._started:
            self._started = True
            complete = (one for one in self._plan.list_folders() if one.read_done())
            self._done_before = sum(one.shard.rows for one in complete)
            self._observer.on_start(self._plan.rows, self._done_before + done)

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self._shard_read, self._shard_reused = tokens_read, tokens_reused
        self._observer.on_batch(
            self._done_before + done, self._read + tokens_read, self._reused + tokens_reused
        )

    def on_finish(self) -> None:
        self._done_before += self._rows
        self._read += self._shard_read
        self._reused += self._shard_reused
        self._shard_read = self._shard_reused = 0


class _MergeObserver(NullRunObserver):
    """Shows the end of a run whose progress was shown before."""

    def __init__(self, observer: RunObserver, known_notes: frozenset[str]) -> None:
        self._observer, self._known_notes = observer, known_notes

    def on_note(self, text: str) -> None:
        if text not in self._known_notes and not text.startswith("resuming "):
            self._observer.on_note(text)

    def on_finish(self) -> None:
        self._observer.on_finish()

    def on_baseline(self, method: str, done: int, rows: int) -> None:
        self._observer.on_baseline(method, done, rows)
