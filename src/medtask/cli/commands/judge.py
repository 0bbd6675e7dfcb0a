"""`medtask judge`: a model grades the free text of a run, and people's grades tell what that is
worth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AllowRemote,
    AsJson,
    GroupName,
    Offline,
    Quiet,
    TaskFile,
    disable_downloads,
    load_engine,
)
from medtask.display import format_count
from medtask.errors import UsageError

if TYPE_CHECKING:
    from medtask.cli.progress import RunProgressDisplay
    from medtask.engines.base import Engine
    from medtask.runs.answer_table import AnswerTable
    from medtask.runs.judging import JudgeResult, JudgingInput

JudgedPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run's folder, or a table with the columns id and answer."
    ),
]


def judge(
    run: JudgedPath,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="The judge: another model than the one that answered."),
    ],
    rubric: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What deserves which grade; default: for medical answers."
        ),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|FILE", help="The reference answers; default: the run's gold."),
    ] = None,
    human: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|FILE", help="People's grades of a random sample of the rows."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN_B", help="Say which run's answer is better, in place of grades."),
    ] = None,
    task: TaskFile = None,
    group: GroupName = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Judge the first N rows only.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The table of judgements; default: beside the answers."),
    ] = None,
    allow_self: Annotated[
        bool, typer.Option("--allow-self", help="Let a model judge its own answers.")
    ] = False,
    allow_remote: AllowRemote = False,
    max_error_rate: Annotated[
        float,
        typer.Option(min=0, max=1, help="Exit with 3 where more judgements than this failed."),
    ] = 0.05,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade free text with another model, or compare two runs.

    Give people's grades of 100 rows with --human: only they tell how often the judge errs. Run the
    same command again to go on where it was stopped, or to add people's grades: nothing is asked
    twice.
    """
    from medtask.cli.progress import make_run_display
    from medtask.runs.judging import judge as judge_answers

    if against and human:
        raise UsageError(
            "people's grades say nothing about comparisons", fix="leave --human or --against out"
        )
    disable_downloads(offline)
    display = make_run_display(quiet=quiet, activity="Judging")
    judge_inputs = _open_judge_inputs(run, rubric, gold, human, against, task, group, limit)
    answers = judge_inputs.answers
    for note in (*answers.notes, *_list_missing_facts(answers)):
        display.on_note(note)
    output = out or _choose_output(run, answers, paired=against is not None)
    with display, redirect_stdout(sys.stderr):
        result = judge_answers(
            judge_inputs,
            lambda: _load_judge(judge_inputs, model, display, allow_remote=allow_remote),
            output,
            allow_self=allow_self,
            max_error_rate=max_error_rate,
            progress=display,
        )
    show.print_json(_describe_result(result)) if as_json else _print_result(result, judge_inputs)
    raise typer.Exit(result.exit_code)


def _open_judge_inputs(
    run: Path,
    rubric: Path | None,
    gold: str | None,
    human: str | None,
    against: Path | None,
    task: Path | None,
    group: str | None,
    limit: int | None,
) -> JudgingInput:
    from medtask.runs.answer_table import open_answers
    from medtask.runs.judging import JudgingInput
    from medtask.tasks.load import load_task
    from medtask.tasks.rubric import MEDICAL_RUBRIC, load_rubric

    loaded_task = load_task(task) if task else None

    def open_one(source: Path, truth: str | None) -> AnswerTable:
        return open_answers(source, gold=truth, task=loaded_task, kind="answer", group=group)

    return JudgingInput(
        open_one(run, gold),
        load_rubric(rubric) if rubric else MEDICAL_RUBRIC,
        alternative=open_one(against, gold) if against else None,
        human_grades=open_one(run, human) if human else None,
        limit=limit,
    )


def _list_missing_facts(answers: AnswerTable) -> Iterator[str]:
    """What a table does not tell that a run does."""
    if not answers.manifest:
        yield (
            f"{answers.name} does not tell which model gave the answers: see that it is not "
            "the judge"
        )
    if not answers.task.input:
        yield (
            "no column holds the question (text, input, question, or what --task names): the "
            "judge reads answer and reference alone"
        )


def _choose_output(run: Path, answers: AnswerTable, *, paired: bool) -> Path:
    name = "preferences" if paired else "judgements"
    return (
        answers.folder / f"{name}.csv"
        if answers.folder
        else run.with_name(f"{run.stem}.{name}.csv")
    )


def _load_judge(
    judge_inputs: JudgingInput, model: str, display: RunProgressDisplay, *, allow_remote: bool
) -> Engine:
    if judge_inputs.task.phi and allow_remote:
        fix = "leave --allow-remote out: such answers are judged on this machine"
        raise UsageError(
            "the task says `phi: true`: its records may go to no other machine", fix=fix
        )
    display.on_load(model)
    engine = load_engine(model, allow_remote=allow_remote)
    display.model_title = engine.info.title
    notes = engine.info.details.get("notes")
    for note in notes if isinstance(notes, list) else ():
        display.on_note(str(note))
    return engine


def _describe_result(result: JudgeResult) -> dict[str, Any]:
    return {
        "table": str(result.table),
        "state": result.state,
        "judge": result.judge,
        "asked": result.new_judgements,
        "seconds": round(result.seconds, 3),
        **(result.metrics.to_json() if result.metrics else {}),
        "exit_code": result.exit_code,
    }


def _print_result(result: JudgeResult, judge_inputs: JudgingInput) -> None:
    from medtask.evaluation.statistics.judge_metrics import (
        JudgeMetrics,
        format_judge_metrics,
        format_pairwise_metrics,
    )

    if result.metrics is None:
        show.print_line("Stopped. Run the same command again: nothing is asked twice.")
        return
    show.print_line(
        format_count(result.metrics.n, "pair" if judge_inputs.alternative else "answer")
        + f" judged by {result.judge}"
    )
    if isinstance(result.metrics, JudgeMetrics):
        lines = format_judge_metrics(result.metrics)
    else:
        lines = format_pairwise_metrics(
            result.metrics,
            judge_inputs.answers.name,
            judge_inputs.alternative.name if judge_inputs.alternative else "",
        )
    for line in lines:
        show.print_line(line)
    show.print_line((str(result.table), "bold"), f"   {result.table.with_suffix('.json').name}")
    if result.exit_code == 3:
        show.print_line(
            ("warning: ", "yellow"),
            "more judgements than --max-error-rate allows failed; the table tells why",
            stderr=True,
        )
