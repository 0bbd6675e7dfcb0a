"""`medtask judge`: grade free text with another model, or compare two runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, GroupName, Offline, Quiet, TaskFile, disable_downloads
from medtask.cli.model_options import add_load_options, load_shown_engine
from medtask.cli.table_options import add_read_options
from medtask.display import format_count
from medtask.engines.load_options import LoadOptions
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.runs.judging import JudgeResult

JudgedPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run's folder, or a table with the columns id and answer."
    ),
]


@add_read_options
@add_load_options
def judge(
    run: JudgedPath,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="The judge; not the model that gave the answers.")
    ],
    rubric: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Grading rubric; default: a rubric for medical answers."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|FILE", help="Reference answers; default: the gold of the run."
        ),
    ] = None,
    human: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|FILE", help="Human grades of a random sample of the rows."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN_B", help="Compare with a second run instead of grading."),
    ] = None,
    task: TaskFile = None,
    group: GroupName = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Judge only the first N rows.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of judgements; default: beside the answers."),
    ] = None,
    allow_self: Annotated[
        bool, typer.Option("--allow-self", help="Allow a model to judge its own answers.")
    ] = False,
    *,
    read_options: ReadOptions,
    load_options: LoadOptions,
    max_error_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Exit with code 3 if the share of failed judgements is higher."
        ),
    ] = 0.05,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade free text with another model, or compare two runs.

    Give human grades of about 100 rows with --human to measure the error of the judge. Running the
    same command again resumes an interrupted judgement or adds human grades; judged rows are not
    repeated.
    """
    from medtask.cli.progress import RunProgressDisplay
    from medtask.runs.judging import judge as judge_answers
    from medtask.tasks.load import load_task

    disable_downloads(offline)
    display = RunProgressDisplay(quiet=quiet, activity="Judging")
    with display, redirect_stdout(sys.stderr):
        result = judge_answers(
            run,
            lambda: load_shown_engine(model, load_options, display),
            rubric=rubric,
            gold=gold,
            human=human,
            against=against,
            task=load_task(task) if task else None,
            group=group,
            limit=limit,
            out=out,
            allow_self=allow_self,
            allow_remote=load_options.allow_remote,
            max_error_rate=max_error_rate,
            progress=display,
            **read_options.to_values(),
        )
    show.print_json(result.to_json()) if as_json else _print_result(result)
    raise typer.Exit(result.exit_code)


def _print_result(result: JudgeResult) -> None:
    from medtask.evaluation.report.judge_report import format_judge_metrics, format_pairwise_metrics
    from medtask.evaluation.statistics.judge_metrics import JudgeMetrics

    if result.metrics is None:
        show.print_line("Stopped. Run the same command again to resume.")
        return
    show.print_line(
        format_count(result.metrics.n, "pair" if result.alternative else "answer")
        + f" judged by {result.judge}"
    )
    if isinstance(result.metrics, JudgeMetrics):
        lines = format_judge_metrics(result.metrics)
    else:
        lines = format_pairwise_metrics(result.metrics, result.answers, result.alternative)
    for line in lines:
        show.print_line(line)
    show.print_line((str(result.table), "bold"), f"   {result.table.with_suffix('.json').name}")
    if result.exit_code == 3:
        show.print_note(
            "more judgements failed than --max-error-rate allows; see the table", "warning"
        )
