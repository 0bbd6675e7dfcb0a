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

from medtask.cli import show
from medtask.cli.inputs import (
    AllowRemote,
    AsJson,
    GroupName,
    Offline,
    Quiet,
    TaskFile,
    forbid_downloads,
    load_engine,
)
from medtask.errors import UsageError

if TYPE_CHECKING:
    from medtask.cli.progress import Meter
    from medtask.engines.base import Engine
    from medtask.runs.answered import Answers
    from medtask.runs.judging import Bench, JudgeResult

RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run's folder, or a table with the columns id and answer."
    ),
]


def judge(
    run: RunPath,
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
    from medtask.cli.progress import choose_meter
    from medtask.runs.judging import judge as judge_answers

    if against and human:
        raise UsageError(
            "people's grades say nothing about comparisons", fix="leave --human or --against out"
        )
    forbid_downloads(offline)
    meter = choose_meter(quiet=quiet, doing="Judging")
    bench = _open_bench(run, rubric, gold, human, against, task, group, limit)
    answers = bench.answers
    for note in (*answers.notes, *_find_gaps(answers)):
        meter.on_note(note)
    place = out or _choose_place(run, answers, paired=against is not None)
    with meter, redirect_stdout(sys.stderr):
        result = judge_answers(
            bench,
            lambda: _load(bench, model, meter, allow_remote=allow_remote),
            place,
            allow_self=allow_self,
            max_error_rate=max_error_rate,
            progress=meter,
        )
    show.show_json(_describe(result)) if as_json else _show(result, bench)
    raise typer.Exit(result.exit_code)


def _open_bench(
    run: Path,
    rubric: Path | None,
    gold: str | None,
    human: str | None,
    against: Path | None,
    task: Path | None,
    group: str | None,
    limit: int | None,
) -> Bench:
    from medtask.runs.answered import open_answers
    from medtask.runs.judging import Bench
    from medtask.tasks.load import load_task
    from medtask.tasks.rubric import MEDICAL, load_rubric

    asked = load_task(task) if task else None

    def open_one(source: Path, truth: str | None) -> Answers:
        return open_answers(source, gold=truth, task=asked, kind="answer", group=group)

    return Bench(
        open_one(run, gold),
        load_rubric(rubric) if rubric else MEDICAL,
        rival=open_one(against, gold) if against else None,
        people=open_one(run, human) if human else None,
        limit=limit,
    )


def _find_gaps(answers: Answers) -> Iterator[str]:
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


def _choose_place(run: Path, answers: Answers, *, paired: bool) -> Path:
    name = "preferences" if paired else "judgements"
    return (
        answers.folder / f"{name}.csv"
        if answers.folder
        else run.with_name(f"{run.stem}.{name}.csv")
    )


def _load(bench: Bench, model: str, meter: Meter, *, allow_remote: bool) -> Engine:
    if bench.task.phi and allow_remote:
        fix = "leave --allow-remote out: such answers are judged on this machine"
        raise UsageError(
            "the task says `phi: true`: its records may go to no other machine", fix=fix
        )
    meter.on_load(model)
    engine = load_engine(model, allow_remote=allow_remote)
    meter.title = engine.info.title
    notes = engine.info.details.get("notes")
    for note in notes if isinstance(notes, list) else ():
        meter.on_note(str(note))
    return engine


def _describe(result: JudgeResult) -> dict[str, Any]:
    return {
        "table": str(result.table),
        "state": result.state,
        "judge": result.judge,
        "asked": result.asked,
        "seconds": round(result.seconds, 3),
        **(result.found.to_json() if result.found else {}),
        "exit_code": result.exit_code,
    }


def _show(result: JudgeResult, bench: Bench) -> None:
    from medtask.evaluate.judged import Judged, compared_lines, judged_lines

    if result.found is None:
        show.say("Stopped. Run the same command again: nothing is asked twice.")
        return
    show.say(
        f"{show.count(result.found.n, 'pair' if bench.rival else 'answer')} judged by "
        f"{result.judge}"
    )
    if isinstance(result.found, Judged):
        lines = judged_lines(result.found)
    else:
        lines = compared_lines(
            result.found, bench.answers.name, bench.rival.name if bench.rival else ""
        )
    for line in lines:
        show.say(line)
    show.say((str(result.table), "bold"), f"   {result.table.with_suffix('.json').name}")
    if result.exit_code == 3:
        show.say(
            ("warning: ", "yellow"),
            "more judgements than --max-error-rate allows failed; the table tells why",
            stderr=True,
        )
