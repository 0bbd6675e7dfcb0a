"""`medtask.run`: answers a table with a model and writes a run folder with a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.base import Engine
from medtask.errors import RunMismatch
from medtask.kinds import KINDS
from medtask.records import LeftOut, Status
from medtask.runs.answer_cache import locate_cache
from medtask.runs.baselines import compare_with_baselines, has_baselines
from medtask.runs.calibration_store import (
    SavedCalibration,
    describe_gold_reuse,
    find_noted_calibration,
    select_model_facts,
)
from medtask.runs.flip_check import check_flips
from medtask.runs.gold_table import SELECTION_COLUMN, find_chosen_rows
from medtask.runs.manifest import restore_task
from medtask.runs.measured_rows import (
    collect_fingerprints,
    find_left_out,
    left_out_to_json,
    make_record_key,
)
from medtask.runs.outputs import (
    OutputSource,
    WrittenTables,
    describe_default_thresholds,
    describe_thresholds,
    fit_thresholds,
    write_answer_tables,
)
from medtask.runs.progress import RunObserver
from medtask.runs.run_setup import RunOptions, RunSetup, prepare_run
from medtask.runs.session import Session, SessionState, open_session
from medtask.tables.read import read_table
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.report.run_summary import RunSummary
    from medtask.evaluation.statistics.intervals import Metric
    from medtask.evaluation.statistics.significance import Baseline

# Rows with these statuses are errors only if they have no value: text that was cut at a sentence
# end is an answer.
ERROR_STATUSES = (Status.FAILED, Status.UNPARSABLE, Status.TRUNCATED, Status.TOO_LONG)
_NOT_COMPARED = "the run was stopped before (the same command compares, and asks nothing)"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of `medtask.run`.

    Attributes:
        folder: The run folder.
        state: "finished", or "interrupted" after a signal; the same call then resumes the run.
        model: The name of the model.
        rows: Number of rows in the run.
        statuses: Number of rows by status, after a calibration.
        new_answers: Number of rows answered by this call.
        cached_answers: Those that were found in the cache.
        tokens_read: Tokens that the models processed in this call.
        tokens_reused: Tokens taken from a cache in this call.
        seconds: Duration of this call.
        first_answer_s: Seconds until the first answers were on disk; None without new answers.
        rows_per_s: New answers per second, excluding model loading and writing of tables.
        exit_code: 0; 3 if a larger share of rows than ``max_error_rate`` has no answer; 130 or 143
            after a signal.
        summary: Statistics of the answers; None unless the run is finished.
        baselines: Simple methods on the same rows; empty without gold.
        notes: What the user should know.
        cascade: Rows by tier, the promised and the observed difference; None without a cascade.
        table_change: Rows that are "reused", "asked", "changed" and "gone" since the table of the
            session before; None if it is the same.
    """

    folder: Path
    state: SessionState
    model: str
    rows: int
    statuses: Mapping[Status, int]
    new_answers: int
    tokens_read: int
    tokens_reused: int
    seconds: float
    first_answer_s: float | None
    rows_per_s: float
    exit_code: int
    summary: RunSummary | None = None
    baselines: tuple[Baseline, ...] = ()
    notes: tuple[str, ...] = ()
    cascade: Mapping[str, Any] | None = None
    cached_answers: int = 0
    table_change: Mapping[str, int] | None = None

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """Metrics with 95 % confidence intervals by name; empty without gold."""
        return self.summary.metrics if self.summary else {}

    @property
    def report(self) -> Path | None:
        """The page with the results; None unless the run is finished."""
        return self.folder / "report.html" if self.state == "finished" else None

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask run --json`` prints; it contains no record text."""
        return {
            "folder": str(self.folder),
            "state": self.state,
            "model": self.model,
            "rows": self.rows,
            "statuses": {status.value: rows for status, rows in self.statuses.items()},
            "metrics": self._describe_metrics(),
            "gold": self.summary.gold.counts_to_json()
            if self.summary and self.summary.gold
            else None,
            "cascade": self.cascade,
            "asked": self.new_answers,
            "from_cache": self.cached_answers,
            "table_change": self.table_change,
            "seconds": round(self.seconds, 3),
            "seconds_to_first_answer": (
                None if self.first_answer_s is None else round(self.first_answer_s, 3)
            ),
            "rows_per_s": round(self.rows_per_s, 3),
            "tokens_read": self.tokens_read,
            "tokens_reused": self.tokens_reused,
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }

    def _describe_metrics(self) -> dict[str, Any] | None:
        """Metrics as value, n, low and high, with further metrics for some kinds."""
        gold = self.summary.gold if self.summary else None
        if self.summary is None or gold is None or gold.evaluation is None:
            return None
        from medtask.evaluation.statistics.intervals import metrics_to_json

        document: dict[str, Any] = metrics_to_json(self.metrics)
        document["baselines"] = {baseline.name: baseline.to_json() for baseline in self.baselines}
        kind = KINDS[self.summary.kind]
        if not (kind.exclusive and kind.has_labels):  # kind label has no further metrics
            document["details"] = gold.evaluation.to_json()
        if self.summary.passes:
            document["passes"] = [asdict(one) for one in self.summary.passes]
        return document


def run(
    task: Task,
    model: Engine | Callable[[], Engine],
    table: object,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    gold: str | None = None,
    formats: Sequence[str] | None = None,
    max_error_rate: float = 0.05,
    new_run: bool = False,
    force_lock: bool = False,
    allow_remote: bool = False,
    calibrated: bool = True,
    baselines: bool = True,
    cascade: float | None = None,
    cache: bool | str | Path = False,
    wide: bool = False,
    flip_check: int = 0,
    progress: RunObserver | None = None,
) -> Run:
    """Answer every row of a table into a run folder, or resume an interrupted run.

    If the table has changed since, rows whose text is unchanged keep their answers.

    Args:
        task: The task.
        model: A model, or a function that loads one; it is called after the table is checked.
        table: A path, a table, or any other input of `read_table`.
        out: The run folder. By default the newest run of this task, model and table next to the
            task file is resumed, or a new folder named after the time is created there. A table is
            the same if it asks the same of every row, or if the file has the same name and most of
            its earlier rows.
        limit: Answer the first ``limit`` rows only.
        gold: The column with the correct answers; by default the task's.
        formats: Output formats: "csv", "parquet", "xlsx", "jsonl". CSV and Parquet are always
            written; by default XLSX is too if the table is a workbook.
        max_error_rate: ``exit_code`` is 3 if a larger share of rows has no answer.
        new_run: Start a new run instead of resuming an earlier one.
        force_lock: Take over a folder that is locked by a process on another host.
        allow_remote: Allow models on other machines for further passes.
        calibrated: Apply the calibration of this task and model, if there is one.
        baselines: With gold, compare with simple methods on the same rows.
        cascade: Let a small classifier answer the rows in which it agrees with the model; in at
            most this share of all rows its answers may differ. By default the task's.
        cache: Reuse answers of earlier runs with the same task and model, and keep new ones, in a
            file in the user's cache folder, or in this SQLite file. It holds hashes and
            probabilities, no text; generated answers are not kept.
        wide: Give the fields of an object columns of their own in CSV; XLSX always has them.
        flip_check: Ask this many rows again, in other batches, and report how many answers change.
        progress: Receives notes and progress.

    Returns:
        Counts, metrics, and the paths of the written files.

    Raises:
        TaskFaults: The task uses columns that are missing in the table.
        TableError: The table cannot be read.
        RunMismatch: The folder belongs to another task or model, or to a table with other rows.
        RunLocked: Another process uses the folder.
        StorageError: The disk is full or read-only.
        EngineError: The model cannot be loaded or cannot answer. Earlier answers are kept and are
            not asked again.

    Example:
        >>> task = medtask.load_task("surgery-purpose")
        >>> result = medtask.run(task, medtask.load_model("minilm"), "procedures.csv")
        >>> result.metrics["accuracy"].value
    """
    options = RunOptions(
        None if out is None else Path(out),
        limit,
        gold,
        None if formats is None else tuple(formats),
        max_error_rate,
        new_run,
        force_lock,
        allow_remote,
        calibrated,
        baselines,
        task.cascade_alpha if cascade is None else cascade,
        locate_cache(cache),
        wide,
        flip_check=flip_check,
    )
    restored = task if options.out is None or new_run else restore_task(task, options.out)
    setup = prepare_run(restored, read_table(table), options)
    if restored.answer_spec != task.answer_spec:
        setup.notes.append(
            "this run was started with an earlier version, and keeps its defaults: an answer may "
            "have no option (at_least_one: false)"
        )
    return run_prepared(setup, model, progress)


def run_prepared(
    setup: RunSetup, model: Engine | Callable[[], Engine], progress: RunObserver | None = None
) -> Run:
    """Answer the rows of a checked run; see `run`."""
    options = setup.options
    exit_code, written, cascade = 0, None, None
    baseline_results: tuple[Baseline, ...] = ()
    with open_session(setup.build_request(), model, progress) as session:
        collect_fingerprints(setup.task, [session.engine])  # reports a damaged list before the rows
        setup.match_prompts(session.request.task)
        saved_calibration = _find_calibration(session) if options.calibrated else None
        if options.recorded is not None:
            session.answer(setup.iter_records(), options.recorded.method)
        elif options.cascade_alpha is None:
            session.answer(setup.iter_records())
        else:
            from medtask.runs.cascade_session import answer_with_cascade

            cascade = answer_with_cascade(
                session, setup.iter_records, options.cascade_alpha, saved_calibration
            )
        if options.flip_check:
            opened = options.recorded.open_models() if options.recorded else None
            with opened or nullcontext((session.engine, session.pass_engines)) as models:
                check_flips(session, models, setup.iter_records(), options.flip_check)
        _check_unchanged(setup, session.request.data_digest)
        exit_code = _choose_exit_code(session, options.max_error_rate)
        written, baseline_results = _write_outputs(setup, session, saved_calibration)
    finished = session.state == "finished"
    summary = written.summary if finished and written else None
    if finished and written:
        written.raise_failures()
    return Run(
        folder=session.folder,
        state=session.state or "interrupted",
        model=session.engine.info.title,
        rows=setup.rows,
        statuses=summary.statuses if summary else session.statuses,
        new_answers=session.cost.rows,
        tokens_read=session.cost.tokens_read,
        tokens_reused=session.cost.tokens_reused,
        seconds=session.get_elapsed_s(),
        first_answer_s=session.cost.first_answer_s,
        rows_per_s=session.cost.rows_per_s,
        exit_code=exit_code if finished else session.exit_code,
        summary=summary,
        baselines=baseline_results if finished else (),
        notes=tuple(session.notes),
        cascade=cascade if finished else None,
        cached_answers=session.cost.cached_rows,
        table_change=session.table_change.to_json() if session.table_change else None,
    )


def _write_outputs(
    setup: RunSetup, session: Session, saved_calibration: SavedCalibration | None
) -> tuple[WrittenTables, tuple[Baseline, ...]]:
    """Write the tables and the report."""
    from medtask.evaluation.report.run_report import ReportAdditions, write_report
    from medtask.evaluation.statistics.significance import Baseline

    source = OutputSource(
        setup.gold_task,
        setup.table,
        session.ledger,
        setup.rows,
        setup.gold_column,
        saved_calibration.calibration if saved_calibration else None,
        _find_left_out(setup, session, saved_calibration),
        setup.options.row_calibrations,
        setup.options.wide,
    )
    thresholds = fit_thresholds(source)
    if thresholds is None and source.left_out and get_task_kind(setup.task).threshold_fit:
        session.add_note("thresholds are not fitted: no row with gold is new to the model")
    written = write_answer_tables(session.folder, source, setup.options.formats or (), thresholds)
    summary, notes = written.summary, [*written.notes, *map(str, written.failures)]
    for note in notes:
        session.add_note(note)
    applied = saved_calibration.to_manifest() if saved_calibration else None
    reuse_warning = describe_gold_reuse(applied, session.folder.name) if summary.gold else ""
    if reuse_warning:
        session.add_note(reuse_warning)
    used_thresholds = (
        describe_thresholds(thresholds) if thresholds else describe_default_thresholds(source)
    )
    facts = {
        "calibration": applied,
        "left_out": left_out_to_json(source.left_out),
        **used_thresholds,
    }
    additions = ReportAdditions(
        notes=[*setup.table.guess_notes, *notes, *([reuse_warning] if reuse_warning else [])]
    )
    report, baselines = session.folder / "report.html", tuple[Baseline, ...]()
    if setup.options.baselines and has_baselines(summary):
        # Baselines can take a minute. Whatever happens meanwhile, the run is complete.
        placeholder = Baseline("simple methods", "", note=_NOT_COMPARED)
        manifest = session.save_final_manifest(**facts)
        write_report(report, summary, manifest, [placeholder], additions)
        baselines = compare_with_baselines(setup.task, session, summary, manifest["timing"])
    write_report(report, summary, session.finish(**facts), baselines, additions)
    return written, baselines


def _find_left_out(
    setup: RunSetup, session: Session, saved_calibration: SavedCalibration | None
) -> dict[int, LeftOut]:
    """The rows that metrics leave out, because they are not new to the model."""
    engines = [session.engine, *session.pass_engines.values()]
    fingerprints, unknown = collect_fingerprints(setup.task, engines)
    if setup.gold_column is not None:
        for folder in unknown:
            session.add_note(
                f"{folder} does not say which rows the model was trained on: metrics on such rows "
                "are too good (train the model again to record them)"
            )
    if saved_calibration and saved_calibration.rows:
        fingerprints.append(saved_calibration.rows)
    keys = (make_record_key(setup.task, record) for record in setup.iter_records())
    left_out = find_left_out(keys, fingerprints)
    if setup.gold_column is None or SELECTION_COLUMN not in setup.table.columns:
        return left_out
    return {**find_chosen_rows(record.fields for record in setup.iter_records()), **left_out}


def _choose_exit_code(session: Session, max_error_rate: float) -> int:
    rows = session.request.rows
    lost = session.ledger.count_without_value(rows, ERROR_STATUSES)
    return 3 if lost > max_error_rate * rows else 0


def _find_calibration(session: Session) -> SavedCalibration | None:
    saved, notes = find_noted_calibration(
        session.request.task, select_model_facts(session.manifest["identity"])
    )
    for note in notes:
        session.add_note(note)
    return saved


def _check_unchanged(setup: RunSetup, digest: str) -> None:
    """Raise RunMismatch if the table has changed: answers are stored by row number."""
    if setup.table.digest() != digest:
        raise RunMismatch(
            f"{setup.table.source} was changed during the run",
            fix="run the same command again: rows whose text is unchanged keep their answers",
        )
