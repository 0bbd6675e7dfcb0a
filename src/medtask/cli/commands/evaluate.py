"""`medtask evaluate`: measure answers against gold, and select those to accept."""

from __future__ import annotations

import os
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
    TaskFile,
    split_formats,
)
from medtask.cli.table_options import add_read_options
from medtask.cli.tracking import TrackingStore, open_tracking, report_to_tracker
from medtask.cli.waiting import set_activity
from medtask.errors import UsageError
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.runs.run_evaluation import Evaluation


@add_read_options
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
    *,
    read_options: ReadOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder; default: the run folder, or beside the table."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Include simple baselines on the same rows.")
    ] = True,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS",
            help="Formats of accepted, review and sets tables: csv, xlsx (ids stay text), parquet, "
            "jsonl; default: csv, and xlsx if the run has answers.xlsx.",
        ),
    ] = None,
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
    from medtask.cli.progress import ProgressDisplay
    from medtask.privacy import block_network
    from medtask.runs.evaluation import evaluate as evaluate_answers
    from medtask.runs.open_answers import open_answers
    from medtask.tasks.load import load_task

    columns = _split_annotators(readers)
    with block_network():
        answers = open_answers(
            source,
            gold=gold,
            task=load_task(task) if task else None,
            kind=kind,
            group=group,
            read_options=read_options,
        )
    home = answers.folder or source
    tracker = open_tracking(track, answers.task, home, allow_remote=allow_remote)
    settings = {
        "max_error": max_error,
        "level": level,
        "by_class": by_class,
        "calibrate": calibrate,
        "sets": sets,
        "readers": columns,
        "baselines": baselines,
        "seed": seed,
        "formats": None if to is None else split_formats(to),
    }
    set_activity("Computing metrics and their intervals")
    evaluation = evaluate_answers(
        answers,
        out=out,
        progress=ProgressDisplay().on_baseline,
        **settings,  # type: ignore[arg-type]
    )
    document = report_to_tracker(
        tracker, "evaluate", answers.task, home, evaluation.to_json(), settings
    )
    show.print_json(document) if as_json else _print_evaluation(evaluation)


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


def _print_evaluation(evaluation: Evaluation) -> None:
    from medtask.evaluation.report.terminal_summary import format_summary_lines
    from medtask.runs.evaluation_report import list_evaluation_lines

    for note in evaluation.notes:
        show.print_line((f"note: {note}", "yellow"))
    for line in (
        *format_summary_lines(evaluation.summary, evaluation.baselines),
        *list_evaluation_lines(evaluation),
    ):
        show.print_line(line)
    show.print_line((f"{evaluation.folder}{os.sep}", "bold"), f"   {'  '.join(evaluation.files)}")
