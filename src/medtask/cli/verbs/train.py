"""`medtask train`: a better model for a task, from rows with gold."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import show
from medtask.cli.inputs import AsJson, DataSource, Offline, Quiet, SheetName, TaskPath, forbid_downloads, open_table
from medtask.cli.tracking import TrackWhere, open_tracking, tell_tracking

if TYPE_CHECKING:
    from medtask.data.table import Table
    from medtask.tasks.task import Task
    from medtask.train.local import Lecture, TrainResult
    from medtask.train.recipe import Recipe

MethodName = Literal["lora", "rslora", "qlora", "dora", "full", "encoder", "linear", "hybrid"]


def train(
    task: TaskPath,
    data: DataSource = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the trained model.")] = None,
    base: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="What training begins with; once for each model of a hybrid.")
    ] = None,
    method: Annotated[MethodName, typer.Option(help="What is trained: see docs/training.md.")] = "rslora",
    also: Annotated[list[Path] | None, typer.Option(metavar="TASK", help="A further task for the same model, with its own table.")] = None,
    gold: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that holds the truth.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="TABLE", help="Rows to validate by; default: a share of DATA.")] = None,
    share: Annotated[float, typer.Option(metavar="SHARE", help="Of the rows, those that are kept to validate by.")] = 0.1,
    min_count: Annotated[int, typer.Option(min=1, metavar="N", help="Leave out labels with fewer rows.")] = 1,
    cap: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many rows of a label.")] = None,
    sheet: SheetName = None,
    epochs: Annotated[float, typer.Option(metavar="N", help="How often every row is read.")] = 3.0,
    rate: Annotated[float | None, typer.Option(metavar="RATE", help="Highest learning rate; default: by method.")] = None,
    batch: Annotated[int, typer.Option(metavar="ROWS", help="Rows of one step.")] = 32,
    rank: Annotated[int, typer.Option(metavar="R", help="Of an adapter.")] = 16,
    alpha: Annotated[float | None, typer.Option(metavar="A", help="Of an adapter; default: its rank.")] = None,
    dropout: Annotated[float, typer.Option(metavar="SHARE", help="Of an adapter.")] = 0.0,
    patience: Annotated[int, typer.Option(metavar="N", help="Stop after so many validations without a gain.")] = 3,
    validations: Annotated[int, typer.Option(metavar="N", help="How often an epoch is validated.")] = 1,
    row_tokens: Annotated[int, typer.Option(metavar="N", help="Leave out rows with more tokens.")] = 2048,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything that chance decides.")] = 0,
    no_pack: Annotated[bool, typer.Option("--no-pack", help="Read the prompt anew for every row.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, a third more time.")] = False,
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format of the base's weights.")] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the model computes.")] = "auto",
    memory: Annotated[str | None, typer.Option(metavar="AMOUNT", help="What training may take, as in 8GB.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    demonstration: Annotated[bool, typer.Option("--demonstration", help="The model card says that it is none for real work.")] = False,
    track: TrackWhere = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on rows with gold; run and evaluate take it like any.

    Ctrl-C keeps what was best until then; the same command goes on where it stopped, after a crash too.
    """
    from medtask.cli.training import choose_training_meter
    from medtask.engines.registry import DEFAULT_MODEL
    from medtask.hardware import parse_bytes
    from medtask.tasks.load import load_task
    from medtask.train.local import train as train_locally
    from medtask.train.recipe import Recipe

    forbid_downloads(offline)
    question = load_task(task)
    bases = tuple(base or ()) or (() if method == "linear" else ("minilm",) if method == "encoder" else (question.model or DEFAULT_MODEL,))
    recipe = Recipe(
        method=method,
        bases=bases,
        epochs=epochs,
        rate=rate,
        batch=batch,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        patience=patience,
        validations=validations,
        row_tokens=row_tokens,
        seed=seed,
        pack=not no_pack,
        checkpointing=checkpointing,
        dtype=dtype,
        device=device,
        memory=parse_bytes(memory) if memory else None,
    )
    folder = out or _name_folder(question, method)
    settings: dict[str, Any] = {"validation": validation, "share": share, "min_count": min_count, "cap": cap}
    with open_table(question, data, sheet) as table:
        lectures = [_open_lecture(path) for path in also or ()]
        if dry_run:
            _preview(question, table, recipe, folder, lectures, gold, settings)
            return
        tracker = open_tracking(track, question, folder)
        with choose_training_meter(quiet=quiet) as meter, redirect_stdout(sys.stderr):
            meter.title = " + ".join(bases) or "TF-IDF"
            result = train_locally(
                question, table, recipe, out=folder, also=lectures, gold_column=gold, watch=meter, demonstration=demonstration, **settings
            )
    told = tell_tracking(tracker, "train", question, folder, _describe(result), recipe.tell())
    show.show_json(told) if as_json else _show(result)
    raise typer.Exit(result.exit_code)


def _name_folder(task: Task, method: str) -> Path:
    """Beside the task, one for each method."""
    home = task.source.parent if task.source else Path()
    return home / "models" / method


def _open_lecture(path: Path) -> Lecture:
    from medtask.data.read import read_table
    from medtask.errors import UsageError
    from medtask.tasks.load import load_task
    from medtask.train.local import Lecture

    task = load_task(path)
    if task.data is None:
        raise UsageError(f"{path} names no table", fix="write `data: TABLE` into its task file")
    return Lecture(task, read_table(task.data))


def _preview(
    task: Task, table: Table, recipe: Recipe, folder: Path, lectures: list[Lecture], gold: str | None, settings: dict[str, Any]
) -> None:
    from medtask.train.local import preview

    for line in preview(task, table, recipe, out=folder, also=lectures, gold_column=gold, **settings):
        show.say(line)


def _describe(result: TrainResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "state": result.state,
        "tasks": [
            {
                "task": one.task,
                "measure": one.measure,
                "metrics": {name: asdict(figure) if figure else None for name, figure in one.figures.items()},
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
            rivals = "".join(f"   {rival} {figure.value:.3f}" for rival, figure in one.rivals.items())
            before = f"   untrained {result.untrained:.3f}" if result.untrained is not None and len(result.learnt) == 1 else ""
            show.say(f"{name}{words.MEASURES.get(one.measure, one.measure)} on rows kept for validation {one.score}{rivals}{before}")
        if one.calibration:
            show.say((one.calibration, "dim"))
    if result.state == "interrupted":
        show.say("Stopped: the folder holds the best state until then. Run the same command again to go on.")
    show.say((f"{result.folder}/", "bold"), "   " + "  ".join(sorted(path.name for path in result.folder.iterdir() if path.name[0] != ".")))
    show.say(f"medtask run TASK TABLE --model {result.folder}")
