"""`medtask evaluate`: how good answers are, and which of them may be accepted without a look."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtask.cli import show
from medtask.cli.inputs import (
    AnswersPath,
    AsJson,
    GoldSource,
    GroupName,
    KindName,
    SheetName,
    TaskFile,
)
from medtask.cli.tracking import TrackWhere, open_tracking, tell_tracking
from medtask.errors import UsageError

if TYPE_CHECKING:
    from medtask.runs.evaluation import Evaluation, Wanted


def evaluate(
    source: AnswersPath,
    gold: GoldSource = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Find which answers may be accepted at so many errors, as in 0.05.",
        ),
    ] = None,
    level: Annotated[
        float, typer.Option(metavar="SHARE", help="How surely that must hold.")
    ] = 0.95,
    by_class: Annotated[
        bool, typer.Option("--by-class", help="A threshold for each label that is answered.")
    ] = False,
    calibrate: Annotated[
        Literal["auto", "temperature", "bias", "isotonic", "batch"] | None,
        typer.Option(
            help="Fit how far confidence can be believed; later runs of the task apply it."
        ),
    ] = None,
    sets: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Sets of labels that miss the truth in so many rows."),
    ] = None,
    readers: Annotated[
        str | None, typer.Option(metavar="A,B", help="Two columns in which people have answered.")
    ] = None,
    task: TaskFile = None,
    kind: KindName = None,
    group: GroupName = None,
    sheet: SheetName = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where files go; default: the run, or beside the table."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Compare with simple methods on the same rows.")
    ] = True,
    track: TrackWhere = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let figures go to a store on another machine.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of resamples and draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure answers against gold, whoever gave them.

    Every figure has its 95 % interval. With --max-error the answers are parted in two: accepted.csv
    and review.csv.
    """
    from medtask.privacy import no_network
    from medtask.runs.answered import open_answers
    from medtask.runs.evaluation import Wanted, evaluate_answers
    from medtask.tasks.load import load_task

    wanted = Wanted(max_error, level, by_class, calibrate, sets, _split(readers), baselines, seed)
    _check_shares(wanted)
    with no_network():
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
    with no_network():
        found = evaluate_answers(answers, wanted)
        folder = out or answers.folder or source.with_name(f"{answers.name}-evaluation")
        files = _write(found, folder)
    told = tell_tracking(
        tracker, "evaluate", answers.task, answers.folder or source, found.to_json(), asdict(wanted)
    )
    if as_json:
        show.show_json({**told, "folder": str(folder), "files": files})
    else:
        _show(found, folder, files)


def _split(readers: str | None) -> tuple[str, str] | None:
    if readers is None:
        return None
    names = [name.strip() for name in readers.split(",")]
    if len(names) != 2 or not all(names) or len(set(names)) < 2:
        raise UsageError(
            f"--readers names {len(set(names))} columns, not two",
            fix="write --readers FIRST,SECOND",
        )
    return names[0], names[1]


def _check_shares(wanted: Wanted) -> None:
    for flag, share in (
        ("--max-error", wanted.max_error),
        ("--level", wanted.level),
        ("--sets", wanted.sets),
    ):
        if share is not None and not 0 < share < 1:
            raise UsageError(
                f"{flag} {share:g} is no share", fix="write a number between 0 and 1, such as 0.05"
            )


def _write(found: Evaluation, folder: Path) -> list[str]:
    """The report, its numbers and the two piles; the calibration goes beside the task, where runs
    look for it.
    """
    from medtask.evaluate.accept import Acceptance
    from medtask.evaluate.prediction_sets import PredictionSets
    from medtask.runs.dossier import keep, write_dossier
    from medtask.runs.sorting import write_piles, write_sets

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = write_dossier(folder, found)
    if isinstance(found.acceptance, Acceptance):
        write_piles(folder, found.answers, found.acceptance)
        files += ["accepted.csv", "review.csv"]
    if isinstance(found.sets, PredictionSets):
        write_sets(folder, found.answers, found.sets)
        files.append("sets.csv")
    if found.kept:
        files.append(os.path.relpath(keep(found, folder), folder))
    return files


def _show(found: Evaluation, folder: Path, files: list[str]) -> None:
    from medtask.evaluate.summary import summary_lines
    from medtask.runs.dossier import list_findings

    for note in found.notes:
        show.say((f"note: {note}", "yellow"))
    for line in (*summary_lines(found.summary, found.baselines), *list_findings(found)):
        show.say(line)
    show.say((f"{folder}{os.sep}", "bold"), f"   {'  '.join(files)}")
