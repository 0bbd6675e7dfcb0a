"""`medtask train`: a better model for a task, from rows with gold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medtask.cli import recipe as options
from medtask.cli import show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    Offline,
    Quiet,
    SheetName,
    TaskPath,
    forbid_downloads,
    open_table,
)
from medtask.cli.tracking import TrackWhere, open_tracking, tell_tracking

if TYPE_CHECKING:
    from medtask.tasks.task import Task
    from medtask.train.local import Lecture, TrainResult
    from medtask.train.recipe import Recipe


def train(
    context: typer.Context,
    task: TaskPath,
    data: DataSource = None,
    out: options.ModelFolder = None,
    base: options.Bases = None,
    method: options.MethodName = "rslora",
    also: options.Also = None,
    gold: GoldColumn = None,
    validation: options.ValidationTable = None,
    share: options.Share = 0.1,
    min_count: options.MinCount = 1,
    cap: options.Cap = None,
    sheet: SheetName = None,
    epochs: options.Epochs = 3.0,
    rate: options.Rate = None,
    batch: options.Batch = 32,
    rank: options.Rank = 16,
    alpha: options.Alpha = None,
    dropout: options.Dropout = 0.0,
    patience: options.Patience = 3,
    validations: options.Validations = 1,
    row_tokens: options.RowTokens = 2048,
    seed: options.Seed = 0,
    no_pack: options.NoPack = False,
    checkpointing: options.Checkpointing = False,
    dtype: options.BaseFormat = "auto",
    device: options.Device = "auto",
    memory: options.Memory = None,
    dry_run: options.DryRun = False,
    demonstration: options.Demonstration = False,
    track: TrackWhere = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a better model on rows with gold.

    What comes out is a folder that run, evaluate and compare take like any model. Ctrl-C keeps what
    was best until then; the same command goes on where it stopped, after a crash too.
    """
    from medtask.tasks.load import load_task
    from medtask.train.local import Lecture, preview
    from medtask.train.material import Selection

    forbid_downloads(offline)
    question = load_task(task)
    folder = out or _name_folder(question, method)
    with open_table(question, data, sheet) as table:
        lectures = [Lecture(question, table, gold, validation), *map(_open_lecture, also or ())]
        recipe, selection = (
            options.read_recipe(question, context.params),
            Selection(share, min_count, cap),
        )
        if dry_run:
            show.say("\n".join(preview(lectures, recipe, out=folder, selection=selection)))
            return
        tracker = open_tracking(track, question, folder)
        result = _learn(
            lectures,
            recipe,
            quiet=quiet,
            out=folder,
            selection=selection,
            demonstration=demonstration,
        )
    told = (
        tell_tracking(tracker, "train", question, folder, _describe(result))
        if result.learnt
        else None
    )
    if told is not None:  # of several processes that train together the first one speaks
        show.show_json(told) if as_json else _show(result)
    raise typer.Exit(result.exit_code)


def _learn(
    lectures: Sequence[Lecture], recipe: Recipe, *, quiet: bool, **settings: Any
) -> TrainResult:
    from medtask.cli.training import choose_training_meter
    from medtask.train.local import train as learn
    from medtask.train.validate import name_score

    with choose_training_meter(quiet=quiet) as meter, redirect_stdout(sys.stderr):
        meter.title = " + ".join(recipe.bases) or "TF-IDF"
        meter.measure = name_score(one.task for one in lectures)
        return learn(lectures, recipe, watch=meter, **settings)


def _name_folder(task: Task, method: str) -> Path:
    """Beside the task, one for each method."""
    home = task.source.parent if task.source else Path()
    return home / "models" / method


def _open_lecture(named: str) -> Lecture:
    """ "TASK=TABLE", or a task that names its own table."""
    from medtask.data.read import read_table
    from medtask.errors import UsageError
    from medtask.tasks.load import load_task
    from medtask.train.local import Lecture

    path, _, table = named.partition("=")
    task = load_task(Path(path))
    if not table and task.data is None:
        raise UsageError(
            f"{path} names no table",
            fix=f"name one, as in --also {path}=TABLE, or write `data: TABLE` into its task file",
        )
    return Lecture(task, read_table(Path(table) if table else task.data))


def _describe(result: TrainResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "state": result.state,
        "tasks": [
            {
                "task": one.task,
                "measure": one.measure,
                "metrics": {
                    name: asdict(figure) if figure else None for name, figure in one.figures.items()
                },
                "rivals": {name: asdict(figure) for name, figure in one.rivals.items()},
                "calibration": one.calibration,
            }
            for one in result.learnt
        ],
        "validation_loss": result.validation_loss,
        "untrained": result.untrained,
        "seconds": result.seconds,
        "notes": list(result.notes),
        "exit_code": result.exit_code,
    }


def _show(result: TrainResult) -> None:
    from medtask.evaluate import words

    for one in result.learnt:
        if one.score is not None:
            name = f"{one.task}: " if len(result.learnt) > 1 else ""
            rivals = "".join(
                f"   {rival} {figure.value:.3f}" for rival, figure in one.rivals.items()
            )
            # While it trains, several labels are judged by all yes-or-no decisions: that is no
            # figure to stand beside an F1.
            alike = len(result.learnt) == 1 and one.measure == "accuracy"
            before = (
                f"   untrained {result.untrained:.3f}"
                if alike and result.untrained is not None
                else ""
            )
            show.say(
                f"{name}{words.MEASURES.get(one.measure, one.measure)} on rows kept for "
                f"validation {one.score}{rivals}{before}"
            )
        if one.calibration:
            show.say((one.calibration, "dim"))
    if result.state == "interrupted":
        show.say(
            "Stopped: the folder holds the best state until then. Run the same command again to "
            "go on."
        )
    show.say(
        (f"{result.folder}/", "bold"),
        "   "
        + "  ".join(sorted(path.name for path in result.folder.iterdir() if path.name[0] != ".")),
    )
    show.say(f"medtask run TASK TABLE --model {result.folder}")
