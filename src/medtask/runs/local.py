"""A whole run on this machine: from a task, a model and a table to a folder with answers and a
report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medtask.data.read import read_table
from medtask.data.table import Table
from medtask.decision.predictor import check_engines, load_others
from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError, RunMismatch
from medtask.hardware import measure_peaks
from medtask.privacy import Guard, no_network
from medtask.records import Status
from medtask.runs.calibrations import Kept, find_calibration, model_facts, warn_of_reuse
from medtask.runs.finalise import Source, compare_baselines, fit_thresholds, write_tables
from medtask.runs.folder import find_run, make_run, open_folder, open_home
from medtask.runs.interrupt import Interrupted, Signals, catch_signals
from medtask.runs.job import Job, settle_job
from medtask.runs.ledger import Ledger
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    identify_model,
    identify_question,
    list_destinations,
    now,
    read_manifest,
    refuse_mismatch,
    start_manifest,
    write_manifest,
)
from medtask.runs.work import Progress, Silence, fill_ledger
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluate.comparison import Baseline
    from medtask.evaluate.summary import Summary
    from medtask.evaluate.thresholds import Fitted

# What counts as an error where it leaves a row without a value: text that was cut at a sentence is
# an answer.
ERRORS = (Status.FAILED, Status.UNPARSABLE, Status.TRUNCATED, Status.TOO_LONG)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of a run.

    ``counts``: rows by status. ``asked``: rows that this session answered; ``tokens_read``,
    ``tokens_reused`` and ``seconds`` are this session's, too. ``summary`` and ``baselines`` are
    there once the run is finished, baselines only with gold. ``exit_code``: 0; 3 above the error
    rate; 130 or 143 after a signal, when the same command resumes.
    """

    folder: Path
    state: Literal["finished", "interrupted"]
    rows: int
    counts: Mapping[Status, int]
    asked: int
    tokens_read: int
    tokens_reused: int
    seconds: float
    exit_code: int
    summary: Summary | None = None
    baselines: tuple[Baseline, ...] = ()
    notes: tuple[str, ...] = ()


def run(
    task: Task,
    model: Engine | Callable[[], Engine],
    table: object,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    gold_column: str | None = None,
    formats: Sequence[str] = ("csv", "parquet"),
    max_error_rate: float = 0.05,
    new_run: bool = False,
    force_lock: bool = False,
    progress: Progress | None = None,
    allow_remote: bool = False,
    calibrated: bool = True,
    compared: bool = True,
) -> RunResult:
    """Answer every row of a table, or its first ``limit`` rows, into a run folder; or go on where
    an earlier run stopped.

    ``model``: an engine, or what loads one; it is called once the table is known to be sound.
    ``table``: whatever read_table takes. ``out``: the run's folder; without it, the newest run of
    this task, model and table beside the task file is gone on with, or a folder named after the
    time is made there. ``new_run`` starts beside whatever there is. ``formats``: tables of answers
    to write; CSV and Parquet always are. ``force_lock`` takes a folder over from another host.
    ``allow_remote``: the models that further passes name may be on other machines. ``calibrated``:
    where a calibration of this task and model stands beside the task file, the tables tell its
    probabilities. ``compared``: with gold the report shows simple methods on the same rows, which
    takes their time.

    Raises every MedtaskError: TaskFaults and TableError for what cannot be asked, RunMismatch for a
    folder of another run, RunLocked, StorageError, EngineError. What was answered before an error
    is kept and is not asked again.
    """
    job = settle_job(
        task, read_table(table), limit, gold_column, formats, max_error_rate, progress or Silence()
    )
    identity = identify_question(task, job.table.digest())
    with ExitStack() as stack:
        if out is not None:
            # Before a model is loaded for minutes: may we write there, alone, and was it the same
            # question?
            folder = open_folder(Path(out), new_run=new_run)
            stack.enter_context(lock_run(folder, force=force_lock))
            refuse_mismatch(folder, identity)
            engine, others = _load(task, model, allow_remote, stack)
            identity |= identify_model(engine, others)
        else:
            home = open_home(task)
            engine, others = _load(task, model, allow_remote, stack)
            identity |= identify_model(engine, others)
            folder = (None if new_run else find_run(home, identity)) or make_run(home)
            stack.enter_context(lock_run(folder, force=force_lock))
        refuse_mismatch(folder, identity)
        manifest = _open_manifest(job, folder, engine, others, identity)
        sent_to = list_destinations(engine, *others.values())
        guard = stack.enter_context(
            no_network([address for addresses in sent_to.values() for address in addresses])
        )
        kept = _find_calibration(job, manifest["identity"]) if calibrated else None
        return _work(job, engine, others, folder, manifest, guard, kept, compared=compared)


def _load(
    task: Task, model: Engine | Callable[[], Engine], allow_remote: bool, stack: ExitStack
) -> tuple[Engine, dict[str, Engine]]:
    """The model and those of further passes, all of them seen to be able to answer. Those that are
    loaded here ``stack`` closes.
    """
    engine = model if isinstance(model, Engine) else stack.enter_context(closing(model()))
    others = load_others(task, allow_remote=allow_remote)
    for other in others.values():
        stack.callback(other.close)
    check_engines(task, engine, others)
    return engine, others


def _open_manifest(
    job: Job,
    folder: Path,
    engine: Engine,
    others: Mapping[str, Engine],
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """This session's manifest, which adds to those before it; written at once, so that the folder
    is known as this run's.
    """
    manifest = start_manifest(job, engine, others, identity)
    if before := read_manifest(folder):
        manifest["created"] = before["created"]
        manifest["timing"] = {**before["timing"], "sessions": before["timing"]["sessions"] + 1}
        manifest["egress"]["connections_attempted"] = before["egress"]["connections_attempted"]
    write_manifest(folder, manifest)
    return manifest


def _close_manifest(
    manifest: Mapping[str, Any], job: Job, guard: Guard, state: str, counts: Mapping[Status, int]
) -> dict[str, Any]:
    """The manifest at the end of this session."""
    timing, egress = manifest["timing"], manifest["egress"]
    attempts = egress["connections_attempted"] + guard.attempts
    return {
        **manifest,
        "state": state,
        "finished": now(),
        "counts": dict(counts),
        "notes": job.notes,
        "timing": {**timing, **_add_up(timing, job)},
        "egress": {**egress, "connections_attempted": attempts},
    }


def _add_up(timing: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """What all sessions together took; the speed is that of answering, without loading a model and
    writing tables.
    """
    asked, seconds = (
        timing.get("asked", 0) + job.cost.rows,
        timing.get("asking_seconds", 0.0) + job.cost.seconds,
    )
    peaks = {f"peak_{what}_bytes": peak for what, peak in measure_peaks().items()}
    return {
        "seconds": round(timing["seconds"] + job.seconds(), 1),
        "asked": asked,
        "asking_seconds": round(seconds, 3),
        "rows_per_s": round(asked / seconds, 3) if asked and seconds else None,
        **{name: max(peak, timing.get(name, 0)) for name, peak in peaks.items()},
    }


def _work(
    job: Job,
    engine: Engine,
    others: Mapping[str, Engine],
    folder: Path,
    manifest: dict[str, Any],
    guard: Guard,
    kept: Kept | None,
    *,
    compared: bool,
) -> RunResult:
    """Ask, then derive what people read; whatever happens, the ledger keeps what was answered."""
    from medtask.evaluate.report import write_report

    with (
        closing(Ledger(folder / "ledger.db", job.task.outcomes)) as ledger,
        catch_signals() as signals,
    ):
        try:
            _answer_all(job, engine, others, ledger, folder, signals)
            _check_unchanged(job.table, manifest["data"]["sha256"])
            source = Source(
                job.task,
                job.table,
                ledger,
                job.rows,
                job.gold_column,
                kept.calibration if kept else None,
            )
            manifest = manifest | {"calibration": kept.tell() if kept else None}
            thresholds = fit_thresholds(source)
            if thresholds:
                manifest = manifest | _tell_thresholds(thresholds)
            summary = write_tables(folder, source, job.formats, thresholds)
            baselines = compare_baselines(job.task, summary) if compared else ()
            counts = ledger.count_statuses(job.rows)
            closed = _close_manifest(manifest, job, guard, "finished", counts)
            reused = warn_of_reuse(closed["calibration"], folder.name) if summary.gold else ""
            if reused:
                job.note(reused)
            write_report(
                folder / "report.html", summary, closed, baselines, notes=[reused] * bool(reused)
            )
            write_manifest(folder, closed)
            exit_code = (
                3 if ledger.count_lost(job.rows, ERRORS) > job.max_error_rate * job.rows else 0
            )
            return _conclude(job, folder, "finished", counts, exit_code, summary, baselines)
        except Interrupted as stop:
            ledger.flush()
            counts = ledger.count_statuses(job.rows)
            write_manifest(folder, _close_manifest(manifest, job, guard, "interrupted", counts))
            return _conclude(job, folder, "interrupted", counts, stop.exit_code)
        except Exception as error:
            with suppress(
                MedtaskError
            ):  # a full disk takes neither; the error that matters is on its way
                ledger.flush()
                closed = _close_manifest(
                    manifest, job, guard, "interrupted", ledger.count_statuses(job.rows)
                )
                write_manifest(folder, closed | {"stopped_by": type(error).__name__})
            if isinstance(error, MemoryError):
                fix = (
                    "give it a smaller model or more memory (--memory), then run the same "
                    "command again: nothing is asked twice"
                )
                raise EngineError("the memory of this machine did not suffice", fix=fix) from error
            raise


def _find_calibration(job: Job, identity: Mapping[str, str]) -> Kept | None:
    kept, note = find_calibration(job.task, model_facts(identity))
    if kept:
        told = f"as fitted on {kept.calibration.rows:,} rows of {kept.run}"
        note = f"probabilities are calibrated, {told} (--uncalibrated leaves them as they are)"
    if note:
        job.note(note)
    return kept


def _tell_thresholds(fitted: Fitted) -> dict[str, Any]:
    """What the manifest says of thresholds that were fitted."""
    sentence = (
        f"Fitted on the gold of {fitted.rows:,} rows. A row with gold was judged by "
        "thresholds fitted on the other four fifths."
    )
    if fitted.scarce:
        sentence += f" With too few gold rows, 0.5 was kept for: {', '.join(fitted.scarce)}."
    return {"thresholds": dict(fitted.overall), "thresholds_fitted": sentence}


def _answer_all(
    job: Job,
    engine: Engine,
    others: Mapping[str, Engine],
    ledger: Ledger,
    folder: Path,
    signals: Signals,
) -> None:
    if ledger.damaged:
        job.note(f"{ledger.damaged:,} damaged row(s) of {ledger.path} are asked again")
    done = sum(ledger.count_statuses(job.rows).values())
    if done:
        job.note(f"going on in {folder}: {done:,} of {job.rows:,} rows have their answers")
    job.progress.on_start(job.rows, done)
    fill_ledger(
        ledger, job.task, engine, others, job.records(), done, job.cost, signals, job.progress
    )
    job.progress.on_finish()


def _check_unchanged(table: Table, digest: str) -> None:
    """Answers are kept by row number: in a table that somebody has sorted meanwhile they would meet
    other rows.
    """
    if table.digest() != digest:
        raise RunMismatch(
            f"{table.source} was changed while its rows were being answered",
            fix=(
                "put the table back as it was and run the same command again, or start afresh "
                "with --new-run"
            ),
        )


def _conclude(
    job: Job,
    folder: Path,
    state: Literal["finished", "interrupted"],
    counts: Mapping[Status, int],
    exit_code: int,
    summary: Summary | None = None,
    baselines: tuple[Baseline, ...] = (),
) -> RunResult:
    return RunResult(
        folder=folder,
        state=state,
        rows=job.rows,
        counts=counts,
        asked=job.cost.rows,
        tokens_read=job.cost.tokens_read,
        tokens_reused=job.cost.tokens_reused,
        seconds=job.seconds(),
        exit_code=exit_code,
        summary=summary,
        baselines=baselines,
        notes=tuple(job.notes),
    )
