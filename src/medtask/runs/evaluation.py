"""`medtask.evaluate`: evaluate answers against gold, with a report and triage tables."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from medtask.display import format_path
from medtask.errors import UsageError
from medtask.evaluation.baselines.context import ProgressListener
from medtask.evaluation.calibration.prediction_sets import PredictionSets
from medtask.privacy import block_network
from medtask.runs.answer_table import AnswerTable
from medtask.runs.baselines import make_baseline_settings
from medtask.runs.evaluation_report import save_evaluation_calibration, write_evaluation_report
from medtask.runs.lock import lock_run
from medtask.runs.open_answers import open_answers
from medtask.runs.run_evaluation import Evaluation, EvaluationOptions, evaluate_answers
from medtask.runs.triage import DEFAULT_TRIAGE_FORMATS, write_prediction_sets, write_triage
from medtask.runs.written_tables import keep_written_table
from medtask.tables.read_options import ReadOptions, ReadOptionValues
from medtask.tables.write import check_formats
from medtask.tasks.task import Task


def evaluate(
    source: str | Path | AnswerTable,
    *,
    gold: str | None = None,
    max_error: float | None = None,
    level: float = 0.95,
    by_class: bool = False,
    calibrate: Literal["auto", "temperature", "bias", "isotonic", "batch"] | None = None,
    sets: float | None = None,
    readers: tuple[str, str] | None = None,
    task: Task | None = None,
    kind: str | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    baselines: bool = True,
    seed: int = 0,
    formats: Sequence[str] | None = None,
    progress: ProgressListener | None = None,
    **read: Unpack[ReadOptionValues],
) -> Evaluation:
    """Evaluate the answers of a run or of any other tool against gold.

    Args:
        source: A run folder, a table with the columns id and answer, or an `AnswerTable`.
        gold: The column with the correct answers, or a file with the same ids (FILE#COLUMN). By
            default the column named by the run or task, or one called gold.
        max_error: Find the confidence threshold above which at most this share of accepted answers
            is wrong, and write accepted.csv and review.csv.
        level: The confidence level at which ``max_error`` must hold.
        by_class: Find a threshold for each predicted label.
        calibrate: Fit a calibration of the probabilities; later runs of the task apply it.
        sets: Fit prediction sets that miss the correct label in this share of rows; write sets.csv.
        readers: Two columns with answers of human annotators, whose agreement is measured.
        task: The task; required if it cannot be read from the run or inferred from the table.
        kind: The kind of a table's answers: "label", "labels", "answer" or "fields".
        group: The column that identifies dependent rows, such as those of one patient.
        out: The output folder; by default the run folder, or a folder next to the table.
        baselines: Compare with simple methods on the same rows. They take at most as long as the
            model was asked, or a minute, and are kept in the output folder.
        seed: Seed of resampling and random draws.
        formats: The formats of accepted, review and sets tables, such as ("csv", "xlsx"); by
            default CSV, and XLSX if the run has answers.xlsx.
        progress: Receives the progress of baselines: the method, its rows that are done, all rows.
        read: How tables are read: fields of `ReadOptions` by name, such as ``encoding="cp1250"``.

    Returns:
        The metrics with confidence intervals, the requested parts, and the paths of the files.

    Raises:
        UsageError: An option is not valid, or gold or probabilities that it needs are missing.
        TableError: A table cannot be read.
        InputError: The run is not finished.
        RunLocked: Another process writes into the output folder.

    Example:
        >>> evaluation = medtask.evaluate("runs/2026-11-20-1412", gold="purpose", max_error=0.05)
        >>> evaluation.metrics["accuracy"].value
        >>> evaluation.acceptance.threshold if evaluation.acceptance else evaluation.refusals
    """
    options = EvaluationOptions(
        max_error, level, by_class, calibrate, sets, readers, baselines, seed
    )
    _check_fractions(options)
    check_formats(formats or ())
    _refuse_unused(options, formats)
    with block_network():
        answers = (
            source
            if isinstance(source, AnswerTable)
            else open_answers(
                source,
                gold=gold,
                task=task,
                kind=kind,
                group=group,
                read_options=ReadOptions(**read),
            )
        )
        folder = Path(out) if out else choose_folder(answers, "evaluation")
        # The run folder is read too if the files are written elsewhere.
        homes = list(dict.fromkeys(home for home in (folder, answers.folder) if home))
        settings = make_baseline_settings(
            homes, answers.manifest.get("timing", {}), progress, options.seed
        )
        evaluation = evaluate_answers(answers, options, settings)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # `force`: a host that has failed may have left a lock, and must not block evaluations.
        with lock_run(folder, force=True):
            return _write_files(evaluation, folder, formats or _choose_formats(answers))


def choose_folder(answers: AnswerTable, name: str) -> Path:
    """The run folder; for another tool's table, a folder next to it."""
    return answers.folder or Path(answers.table.source).with_name(f"{answers.name}-{name}")


def _choose_formats(answers: AnswerTable) -> Sequence[str]:
    has_workbook = answers.folder is not None and (answers.folder / "answers.xlsx").exists()
    return (*DEFAULT_TRIAGE_FORMATS, "xlsx") if has_workbook else DEFAULT_TRIAGE_FORMATS


def _check_fractions(options: EvaluationOptions) -> None:
    for flag, fraction in (
        ("--max-error", options.max_error),
        ("--level", options.level),
        ("--sets", options.sets),
    ):
        if fraction is not None and not 0 < fraction < 1:
            raise UsageError(
                f"{flag} {fraction:g} is not a share",
                fix="use a number between 0 and 1, such as 0.05",
            )


def _refuse_unused(options: EvaluationOptions, formats: Sequence[str] | None) -> None:
    """Raise UsageError for options of a part that is not computed."""
    if options.max_error is not None:
        return
    for flag, is_given in (
        ("--by-class", options.by_class),
        ("--level", options.level != EvaluationOptions().level),
    ):
        if is_given:
            raise UsageError(
                f"{flag} is for the answers that --max-error accepts, which is not given",
                fix="add --max-error, such as 0.05",
            )
    if formats is not None and options.sets is None:
        raise UsageError(
            "--to is for the tables of --max-error and --sets, which are not given",
            fix="add one of them, or leave out --to",
        )


def _write_files(evaluation: Evaluation, folder: Path, formats: Sequence[str]) -> Evaluation:
    """Write the report and the tables; a calibration is written next to the task file."""
    files = ["report.html", "report.json"]
    acceptance = evaluation.acceptance
    # If it was refused, people need the rows in the order of their worth all the more.
    if acceptance or "acceptance" in evaluation.refusals:
        notes = [
            f"the corrections in review.{suffix} are kept in {copy.name}: `medtask gold "
            f"{shlex.quote(format_path(folder))}` reads them"
            for suffix in formats
            if (copy := keep_written_table(folder / f"review.{suffix}"))
        ]
        rows = write_triage(folder, evaluation.answers, acceptance, formats)
        evaluation = replace(evaluation, notes=(*evaluation.notes, *notes), triage=rows)
        files += [f"{name}.{suffix}" for suffix in formats for name in ("accepted", "review")]
    if isinstance(evaluation.prediction_sets, PredictionSets):
        write_prediction_sets(folder, evaluation.answers, evaluation.prediction_sets, formats)
        files += [f"sets.{suffix}" for suffix in formats]
    write_evaluation_report(folder, evaluation)
    if evaluation.saved_calibration:
        files.append(os.path.relpath(save_evaluation_calibration(evaluation, folder), folder))
    return evaluation.with_files(folder, files)
