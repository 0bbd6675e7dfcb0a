"""`medtask.merge`: the answers of all shards become one run, as if one process had asked for them.

A merge is a session of the run whose answers come from the ledgers of the shards. So it can be
interrupted and repeated, two merges exclude each other, and tables, calibration, metrics and report
are those of any run. The model is loaded only to ask rows again (``flip_check``).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.display import format_count, format_path
from medtask.engines.base import Engine
from medtask.engines.registry import load_model
from medtask.errors import InputError, RunMismatch, StorageError
from medtask.json_files import InvalidJsonFile
from medtask.prediction.predictor import AnswerCache, RowAnswer, copy_answer
from medtask.records import Record
from medtask.runs.ledger import Ledger
from medtask.runs.local_run import Run, run_prepared
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    create_manifest,
    format_differences,
    identify_model,
    read_manifest,
    write_manifest,
)
from medtask.runs.progress import RunObserver
from medtask.runs.run_setup import RecordedAnswers, prepare_run
from medtask.scaling.local_shards import keep_models
from medtask.scaling.plan import RunPlan, read_plan
from medtask.scaling.recorded_engine import RecordedEngine
from medtask.scaling.run_status import describe_missing
from medtask.scaling.shard_session import ShardWork
from medtask.scaling.shards import ShardFolder
from medtask.tasks.task import Task

_BATCH_ROWS = 4096  # rows whose prompts are looked up together


def merge(
    run: str | Path,
    *,
    flip_check: int = 0,
    load: Callable[[], Engine] | None = None,
    force_lock: bool = False,
    progress: RunObserver | None = None,
) -> Run:
    """Merge the shards of a run into its tables and its report. Merging again changes nothing.

    Args:
        run: The run folder.
        flip_check: Ask this many rows again in this process, which loads the model for that, and
            report how many answers change.
        load: Loads the model for ``flip_check``; default: as planned.
        force_lock: Take over a folder that is locked by a process on another host.
        progress: Receives notes and progress.

    Returns:
        Counts, metrics, and the paths of the written files.

    Raises:
        InputError: The folder has no shards, or shards are missing; the message lists them.
        RunMismatch: The task or the table has changed, or models of shards differ.
        RunLocked: Another process merges.
        EngineError: The model for ``flip_check`` cannot be loaded.
        StorageError: A ledger is damaged, or the disk is full or read-only.
    """
    plan = read_plan(Path(run))
    task, table = plan.open()
    marks = _collect_marks(plan)
    engine, pass_engines = _restore_engines(plan, marks)
    facts = _sum_facts(plan, list(marks.values()))
    shared = ShardWork(
        plan, task, table, load or (lambda: load_model(plan.model, plan.load_options))
    )
    options = plan.options.to_run_options(plan.folder, allow_remote=plan.load_options.allow_remote)
    setup = prepare_run(
        task,
        table,
        replace(
            options,
            force_lock=force_lock,
            recorded=RecordedAnswers(
                _ShardAnswers(plan),
                pass_engines,
                facts,
                lambda: _load_models(shared, identify_model(engine, pass_engines)),
            ),
            flip_check=flip_check,
        ),
    )
    if read_manifest(plan.folder) is None:
        # A run folder is one with a manifest.
        identity = {**plan.identity, **identify_model(engine, pass_engines)}
        with lock_run(plan.folder, force=force_lock):
            write_manifest(plan.folder, create_manifest(engine, pass_engines, identity))
    result = run_prepared(setup, engine, progress)
    return replace(result, rows_per_s=facts["timing"]["rows_per_s"] or 0.0)


def _collect_marks(plan: RunPlan) -> dict[ShardFolder, Mapping[str, Any]]:
    """The marks of all shards. Raises InputError if some are missing."""
    marks = {folder: mark for folder in plan.list_folders() if (mark := folder.read_done())}
    if missing := len(plan.shards) - len(marks):
        raise InputError(
            f"{missing:,} of {format_count(len(plan.shards), 'shard')} of {plan.folder} "
            f"{'is' if missing == 1 else 'are'} missing: {describe_missing(plan)}",
            fix="submit the run again with --out, which submits these only, or answer them here: "
            f"medtask shard {shlex.quote(str(plan.folder))}",
        )
    return marks


def _restore_engines(
    plan: RunPlan, marks: Mapping[ShardFolder, Mapping[str, Any]]
) -> tuple[Engine, dict[str, Engine]]:
    """The properties of the models. Raises RunMismatch if those of shards differ."""
    first: tuple[Engine, dict[str, Engine]] | None = None
    for folder, mark in marks.items():
        try:
            engine: Engine = RecordedEngine(mark["model"])
            pass_engines: dict[str, Engine] = {
                name: RecordedEngine(one) for name, one in mark["models_of_passes"].items()
            }
        except InvalidJsonFile as error:
            raise _make_damage_error(folder, f"its mark is not valid: {error}") from None
        if first is None:
            first = engine, pass_engines
        elif listed := format_differences(
            identify_model(*first), identify_model(engine, pass_engines)
        ):
            raise RunMismatch(
                f"shard {folder.shard.number} was answered by another model than shard 1:{listed}",
                fix=f"remove {folder.path} and answer it again with the model of the others",
            )
    assert first is not None  # there is at least one shard
    return first


@contextmanager
def _load_models(
    work: ShardWork, identity: Mapping[str, str]
) -> Iterator[tuple[Engine, Mapping[str, Engine]]]:
    """The models of a plan. Raises RunMismatch if they are not those that have answered."""
    with keep_models(work) as loaded:
        assert isinstance(loaded.model, Engine) and loaded.pass_engines is not None
        found = identify_model(loaded.model, loaded.pass_engines)
        if listed := format_differences(identity, found):
            raise RunMismatch(
                f"the model of this machine is not the one that has answered:{listed}",
                fix="merge without --flip-check, or on a machine like those that have answered",
            )
        yield loaded.model, loaded.pass_engines


def _sum_facts(plan: RunPlan, marks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The final manifest's entries about all processes."""
    timings = [mark["timing"] for mark in marks]
    total = {
        name: round(sum(timing.get(name) or 0 for timing in timings), 3)
        for name in ("sessions", "asked", "seconds", "asking_seconds")
    }
    peaks = {name for timing in timings for name in timing if name.startswith("peak_")}
    asking_s = total["asking_seconds"]
    sent_to: dict[str, list[str]] = {}
    for mark in marks:
        sent_to |= mark["egress"]["sent_to"]
    return {
        "hardware": marks[0]["hardware"],
        "egress": {
            "guard": "on",
            "connections_attempted": sum(mark["egress"]["connections_attempted"] for mark in marks),
            "sent_to": sent_to,
        },
        "timing": {
            **total,
            "rows_per_s": round(total["asked"] / asking_s, 3) if asking_s else None,
            **{name: max(timing.get(name, 0) for timing in timings) for name in peaks},
        },
        "shards": {"count": len(plan.shards), "rows": [shard.rows for shard in plan.shards]},
    }


@dataclass(frozen=True, slots=True)
class _ShardAnswers:
    """An `AnswerMethod` that reads the answers from the ledgers of shards.

    Equal prompts get the answer of the first of them, as in a run without shards: the last digits
    of their numbers depend on the rows that each was read with.
    """

    plan: RunPlan

    def __call__(
        self,
        task: Task,
        engine: Engine,
        records: Iterable[Record],
        cache: AnswerCache,
        *,
        pass_engines: Mapping[str, Engine] | None = None,
    ) -> Generator[RowAnswer, None, None]:
        pending = iter(records)
        for folder in self.plan.list_folders():
            shard = folder.shard
            shard_records = islice(pending, shard.rows)
            merged = cache.list_answered_rows(shard.first, shard.last)
            if len(merged) < shard.rows:
                answers = _read_answers(folder, task)
                yield from (
                    one
                    for one in _unify_answers(task, shard.first, shard_records, answers, cache)
                    if one.row not in merged
                )
            for _ in shard_records:
                pass


def _read_answers(folder: ShardFolder, task: Task) -> Iterator[RowAnswer]:
    """The answers of a shard, with the row numbers of the run."""
    shard, count = folder.shard, 0
    try:
        with closing(Ledger(folder.ledger, task.outcomes, read_only=True)) as ledger:
            for row_answer in ledger.read_answers(shard.rows):
                count += 1
                yield replace(row_answer, row=row_answer.row + shard.first - 1)
    except StorageError as error:
        raise _make_damage_error(folder, str(error)) from error
    if count != shard.rows:
        raise _make_damage_error(folder, f"{count:,} of {shard.rows:,} rows have an answer")


def _unify_answers(
    task: Task,
    first: int,
    records: Iterator[Record],
    answers: Iterator[RowAnswer],
    cache: AnswerCache,
) -> Iterator[RowAnswer]:
    """The answers of a shard; those to prompts of earlier shards are replaced."""
    while batch := list(islice(answers, _BATCH_ROWS)):
        keys = {one.key for one in batch if one.key is not None}
        earlier = cache.find_answers_before(first, keys)
        for one, record in zip(batch, islice(records, len(batch)), strict=True):
            found = earlier.get(one.key) if one.key is not None else None
            yield (
                one
                if found is None or one.key is None
                else copy_answer(task, found, one.row, one.key, record)
            )


def _make_damage_error(folder: ShardFolder, problem: str) -> StorageError:
    return StorageError(
        f"{format_path(folder.path)}: shard {folder.shard.number} is damaged: {problem}",
        fix=f"remove {folder.path / 'done.json'} and answer what is missing: medtask shard "
        f"{folder.path.parent.parent} {folder.shard.number}",
    )
