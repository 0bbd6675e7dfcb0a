"""A whole run on this machine: from a task, a model and a table to a folder with answers and a
report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError, RunMismatch
from medtask.hardware import measure_peak_memory
from medtask.prediction.predictor import check_engines, load_pass_engines
from medtask.privacy import NetworkGuard, block_network
from medtask.records import Status
from medtask.runs.calibration_store import (
    SavedCalibration,
    describe_gold_reuse,
    find_calibration,
    select_model_facts,
)
from medtask.runs.execution import NullRunObserver, RunObserver, fill_ledger
from medtask.runs.folder import create_run_folder, find_run, open_run_folder, open_runs_folder
from medtask.runs.ledger import Ledger
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    create_manifest,
    get_timestamp,
    identify_model,
    identify_task,
    list_destinations,
    read_manifest,
    refuse_mismatch,
    write_manifest,
)
from medtask.runs.outputs import (
    OutputSource,
    evaluate_baselines,
    fit_thresholds,
    write_answer_tables,
)
from medtask.runs.run_setup import RunSetup, prepare_run
from medtask.runs.signals import Interrupted, SignalState, catch_signals
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.thresholds import FittedThresholds
    from medtask.evaluation.report.run_summary import RunSummary
    from medtask.evaluation.statistics.significance import Baseline

# What counts as an error where it leaves a row without a value: text that was cut at a sentence is
# an answer.
ERROR_STATUSES = (Status.FAILED, Status.UNPARSABLE, Status.TRUNCATED, Status.TOO_LONG)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of a run.

    ``status_counts``: rows by status. ``new_answers``: rows that this session answered;
    ``tokens_read``, ``tokens_reused`` and ``seconds`` are this session's, too. ``summary`` and
    ``baselines`` are there once the run is finished, baselines only with gold. ``exit_code``: 0; 3
    above the error rate; 130 or 143 after a signal, when the same command resumes.
    """

    folder: Path
    state: Literal["finished", "interrupted"]
    rows: int
    status_counts: Mapping[Status, int]
    new_answers: int
    tokens_read: int
    tokens_reused: int
    seconds: float
    exit_code: int
    summary: RunSummary | None = None
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
    progress: RunObserver | None = None,
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
    setup = prepare_run(
        task,
        read_table(table),
        limit,
        gold_column,
        formats,
        max_error_rate,
        progress or NullRunObserver(),
    )
    identity = identify_task(task, setup.table.digest())
    with ExitStack() as stack:
        if out is not None:
            # Before a model is loaded for minutes: may we write there, alone, and was it the same
            # question?
            folder = open_run_folder(Path(out), new_run=new_run)
            stack.enter_context(lock_run(folder, force=force_lock))
            refuse_mismatch(folder, identity)
            engine, pass_engines = _load_engines(task, model, allow_remote, stack)
            identity |= identify_model(engine, pass_engines)
        else:
            runs_folder = open_runs_folder(task)
            engine, pass_engines = _load_engines(task, model, allow_remote, stack)
            identity |= identify_model(engine, pass_engines)
            folder = (None if new_run else find_run(runs_folder, identity)) or create_run_folder(
                runs_folder
            )
            stack.enter_context(lock_run(folder, force=force_lock))
        refuse_mismatch(folder, identity)
        manifest = _open_manifest(setup, folder, engine, pass_engines, identity)
        sent_to = list_destinations(engine, *pass_engines.values())
        guard = stack.enter_context(
            block_network([address for addresses in sent_to.values() for address in addresses])
        )
        saved_calibration = _find_calibration(setup, manifest["identity"]) if calibrated else None
        return _run_session(
            setup,
            engine,
            pass_engines,
            folder,
            manifest,
            guard,
            saved_calibration,
            compared=compared,
        )


def _load_engines(
    task: Task, model: Engine | Callable[[], Engine], allow_remote: bool, stack: ExitStack
) -> tuple[Engine, dict[str, Engine]]:
    """The model and those of further passes, all of them seen to be able to answer. Those that are
    loaded here ``stack`` closes.
    """
    engine = model if isinstance(model, Engine) else stack.enter_context(closing(model()))
    pass_engines = load_pass_engines(task, allow_remote=allow_remote)
    for pass_engine in pass_engines.values():
        stack.callback(pass_engine.close)
    check_engines(task, engine, pass_engines)
    return engine, pass_engines


def _open_manifest(
    setup: RunSetup,
    folder: Path,
    engine: Engine,
    pass_engines: Mapping[str, Engine],
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """This session's manifest, which adds to those before it; written at once, so that the folder
    is known as this run's.
    """
    manifest = create_manifest(setup, engine, pass_engines, identity)
    if before := read_manifest(folder):
        manifest["created"] = before["created"]
        manifest["timing"] = {**before["timing"], "sessions": before["timing"]["sessions"] + 1}
        manifest["egress"]["connections_attempted"] = before["egress"]["connections_attempted"]
    write_manifest(folder, manifest)
    return manifest


def _close_manifest(
    manifest: Mapping[str, Any],
    setup: RunSetup,
    guard: NetworkGuard,
    state: str,
    status_counts: Mapping[Status, int],
) -> dict[str, Any]:
    """The manifest at the end of this session."""
    timing, egress = manifest["timing"], manifest["egress"]
    attempts = egress["connections_attempted"] + guard.attempts
    return {
        **manifest,
        "state": state,
        "finished": get_timestamp(),
        "counts": dict(status_counts),
        "notes": setup.notes,
        "timing": {**timing, **_sum_timing(timing, setup)},
        "egress": {**egress, "connections_attempted": attempts},
    }


def _sum_timing(timing: Mapping[str, Any], setup: RunSetup) -> dict[str, Any]:
    """What all sessions together took; the speed is that of answering, without loading a model and
    writing tables.
    """
    answered_rows, seconds = (
        timing.get("asked", 0) + setup.cost.rows,
        timing.get("asking_seconds", 0.0) + setup.cost.seconds,
    )
    peaks = {f"peak_{what}_bytes": peak for what, peak in measure_peak_memory().items()}
    return {
        "seconds": round(timing["seconds"] + setup.get_elapsed_s(), 1),
        "asked": answered_rows,
        "asking_seconds": round(seconds, 3),
        "rows_per_s": round(answered_rows / seconds, 3) if answered_rows and seconds else None,
        **{name: max(peak, timing.get(name, 0)) for name, peak in peaks.items()},
    }


def _run_session(
    setup: RunSetup,
    engine: Engine,
    pass_engines: Mapping[str, Engine],
    folder: Path,
    manifest: dict[str, Any],
    guard: NetworkGuard,
    saved_calibration: SavedCalibration | None,
    *,
    compared: bool,
) -> RunResult:
    """Ask, then derive what people read; whatever happens, the ledger keeps what was answered."""
    from medtask.evaluation.report.run_report import write_report

    with (
        closing(Ledger(folder / "ledger.db", setup.task.outcomes)) as ledger,
        catch_signals() as signals,
    ):
        try:
            _answer_records(setup, engine, pass_engines, ledger, folder, signals)
            _check_unchanged(setup.table, manifest["data"]["sha256"])
            source = OutputSource(
                setup.task,
                setup.table,
                ledger,
                setup.rows,
                setup.gold_column,
                saved_calibration.calibration if saved_calibration else None,
            )
            manifest = manifest | {
                "calibration": saved_calibration.to_manifest() if saved_calibration else None
            }
            thresholds = fit_thresholds(source)
            if thresholds:
                manifest = manifest | _describe_thresholds(thresholds)
            summary = write_answer_tables(folder, source, setup.formats, thresholds)
            baselines = evaluate_baselines(setup.task, summary) if compared else ()
            status_counts = ledger.count_statuses(setup.rows)
            final_manifest = _close_manifest(manifest, setup, guard, "finished", status_counts)
            reuse_warning = (
                describe_gold_reuse(final_manifest["calibration"], folder.name)
                if summary.gold
                else ""
            )
            if reuse_warning:
                setup.add_note(reuse_warning)
            write_report(
                folder / "report.html",
                summary,
                final_manifest,
                baselines,
                notes=[reuse_warning] * bool(reuse_warning),
            )
            write_manifest(folder, final_manifest)
            exit_code = (
                3
                if ledger.count_without_value(setup.rows, ERROR_STATUSES)
                > setup.max_error_rate * setup.rows
                else 0
            )
            return _build_result(
                setup, folder, "finished", status_counts, exit_code, summary, baselines
            )
        except Interrupted as stop:
            ledger.flush()
            status_counts = ledger.count_statuses(setup.rows)
            write_manifest(
                folder, _close_manifest(manifest, setup, guard, "interrupted", status_counts)
            )
            return _build_result(setup, folder, "interrupted", status_counts, stop.exit_code)
        except Exception as error:
            with suppress(
                MedtaskError
            ):  # a full disk takes neither; the error that matters is on its way
                ledger.flush()
                final_manifest = _close_manifest(
                    manifest, setup, guard, "interrupted", ledger.count_statuses(setup.rows)
                )
                write_manifest(folder, final_manifest | {"stopped_by": type(error).__name__})
            if isinstance(error, MemoryError):
                fix = (
                    "give it a smaller model or more memory (--memory), then run the same "
                    "command again: nothing is asked twice"
                )
                raise EngineError("the memory of this machine did not suffice", fix=fix) from error
            raise


def _find_calibration(setup: RunSetup, identity: Mapping[str, str]) -> SavedCalibration | None:
    saved_calibration, note = find_calibration(setup.task, select_model_facts(identity))
    if saved_calibration:
        origin = (
            f"as fitted on {saved_calibration.calibration.rows:,} rows of {saved_calibration.run}"
        )
        note = f"probabilities are calibrated, {origin} (--uncalibrated leaves them as they are)"
    if note:
        setup.add_note(note)
    return saved_calibration


def _describe_thresholds(fitted: FittedThresholds) -> dict[str, Any]:
    """What the manifest says of thresholds that were fitted."""
    sentence = (
        f"Fitted on the gold of {fitted.rows:,} rows. A row with gold was judged by "
        "thresholds fitted on the other four fifths."
    )
    if fitted.unfitted_labels:
        sentence += (
            f" With too few gold rows, 0.5 was kept for: {', '.join(fitted.unfitted_labels)}."
        )
    return {"thresholds": dict(fitted.overall), "thresholds_fitted": sentence}


def _answer_records(
    setup: RunSetup,
    engine: Engine,
    pass_engines: Mapping[str, Engine],
    ledger: Ledger,
    folder: Path,
    signals: SignalState,
) -> None:
    if ledger.damaged:
        setup.add_note(f"{ledger.damaged:,} damaged row(s) of {ledger.path} are asked again")
    done = sum(ledger.count_statuses(setup.rows).values())
    if done:
        setup.add_note(f"going on in {folder}: {done:,} of {setup.rows:,} rows have their answers")
    setup.progress.on_start(setup.rows, done)
    fill_ledger(
        ledger,
        setup.task,
        engine,
        pass_engines,
        setup.iter_records(),
        done,
        setup.cost,
        signals,
        setup.progress,
    )
    setup.progress.on_finish()


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


def _build_result(
    setup: RunSetup,
    folder: Path,
    state: Literal["finished", "interrupted"],
    status_counts: Mapping[Status, int],
    exit_code: int,
    summary: RunSummary | None = None,
    baselines: tuple[Baseline, ...] = (),
) -> RunResult:
    return RunResult(
        folder=folder,
        state=state,
        rows=setup.rows,
        status_counts=status_counts,
        new_answers=setup.cost.rows,
        tokens_read=setup.cost.tokens_read,
        tokens_reused=setup.cost.tokens_reused,
        seconds=setup.get_elapsed_s(),
        exit_code=exit_code,
        summary=summary,
        baselines=baselines,
        notes=tuple(setup.notes),
    )
