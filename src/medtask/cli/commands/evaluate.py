"""`medtask evaluate`: how good answers are, and which of them may be accepted without a look."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AnswersPath,
    AsJson,
    GoldSource,
    GroupName,
    KindName,
    SheetName,
    TaskFile,
)
from medtask.cli.tracking import TrackingStore, open_tracking, report_to_tracker
from medtask.errors import UsageError

if TYPE_CHECKING:
    from medtask.runs.run_evaluation import Evaluation, EvaluationOptions


def evaluate(
    source: AnswersPath,
    gold: GoldSource = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Find answers that can be accepted at this error rate, for example 0.05.",
        ),
    ] = None,
    level: Annotated[
        float, typer.Option(metavar="SHARE", help="Confidence level of this guarantee.")
    ] = 0.95,
    by_class: Annotated[
        bool, typer.Option("--by-class", help="Use one threshold per predicted label.")
    ] = False,
    calibrate: Annotated[
        Literal["auto", "temperature", "bias", "isotonic", "batch"] | None,
        typer.Option(help="Fit a calibration; later runs of the task apply it."),
    ] = None,
    sets: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Write prediction sets with this rate of misses."),
    ] = None,
    readers: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Two columns with the answers of two annotators."),
    ] = None,
    task: TaskFile = None,
    kind: KindName = None,
    group: GroupName = None,
    sheet: SheetName = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder; default: the run folder, or beside the table."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Include simple baselines on the same rows.")
    ] = True,
    track: TrackingStore = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a tracking store on another machine.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of resampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure answers against gold.

    Every metric has a 95 % interval. With --max-error the answers are split into accepted.csv and
    review.csv.
    """
    from medtask.privacy import block_network
    from medtask.runs.answer_table import open_answers
    from medtask.runs.run_evaluation import EvaluationOptions, evaluate_answers
    from medtask.tasks.load import load_task

    options = EvaluationOptions(
        max_error, level, by_class, calibrate, sets, _split_annotators(readers), baselines, seed
    )
    _check_fractions(options)
    with block_network():
        answers = open_answers(
            source,
            gold=gold,
            task=load_task(task) if task else None,
            kind=kind,
            group=group,
            sheet=sheet,
        )
    tracker = open_tracking(
        track, answers.task, answers.folder or source, allow_remote=allow_remote
    )
    with block_network():
        evaluation = evaluate_answers(answers, options)
        folder = out or answers.folder or source.with_name(f"{answers.name}-evaluation")
        files = _write_files(evaluation, folder)
    document = report_to_tracker(
        tracker,
        "evaluate",
        answers.task,
        answers.folder or source,
        evaluation.to_json(),
        asdict(options),
    )
    if as_json:
        show.print_json({**document, "folder": str(folder), "files": files})
    else:
        _print_evaluation(evaluation, folder, files)


def _split_annotators(columns: str | None) -> tuple[str, str] | None:
    if columns is None:
        return None
    names = [name.strip() for name in columns.split(",")]
    if len(names) != 2 or not all(names) or len(set(names)) < 2:
        raise UsageError(
            f"--readers names {len(set(names))} columns, not two",
            fix="write --readers FIRST,SECOND",
        )
    return names[0], names[1]


def _check_fractions(options: EvaluationOptions) -> None:
    for flag, share in (
        ("--max-error", options.max_error),
        ("--level", options.level),
        ("--sets", options.sets),
    ):
        if share is not None and not 0 < share < 1:
            raise UsageError(
                f"{flag} {share:g} is not a share", fix="use a number between 0 and 1, such as 0.05"
            )


def _write_files(evaluation: Evaluation, folder: Path) -> list[str]:
    """The report, its numbers and the two piles; the calibration goes beside the task, where runs
    look for it.
    """
    from medtask.evaluation.calibration.acceptance import Acceptance
    from medtask.evaluation.calibration.prediction_sets import PredictionSets
    from medtask.runs.evaluation_report import save_evaluation_calibration, write_evaluation_report
    from medtask.runs.triage import write_prediction_sets, write_triage

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = write_evaluation_report(folder, evaluation)
    if isinstance(evaluation.acceptance, Acceptance):
        write_triage(folder, evaluation.answers, evaluation.acceptance)
        files += ["accepted.csv", "review.csv"]
    if isinstance(evaluation.prediction_sets, PredictionSets):
        write_prediction_sets(folder, evaluation.answers, evaluation.prediction_sets)
        files.append("sets.csv")
    if evaluation.saved_calibration:
        files.append(os.path.relpath(save_evaluation_calibration(evaluation, folder), folder))
    return files


def _print_evaluation(evaluation: Evaluation, folder: Path, files: list[str]) -> None:
    from medtask.evaluation.report.terminal_summary import format_summary_lines
    from medtask.runs.evaluation_report import list_evaluation_lines

    for note in evaluation.notes:
        show.print_line((f"note: {note}", "yellow"))
    for line in (
        *format_summary_lines(evaluation.summary, evaluation.baselines),
        *list_evaluation_lines(evaluation),
    ):
        show.print_line(line)
    show.print_line((f"{folder}{os.sep}", "bold"), f"   {'  '.join(files)}")
