"""`medtask gold`: read corrections back, and join them with the gold that there was."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AnswersPath, AsJson, GoldSource, TaskFile, split_formats
from medtask.cli.table_options import add_read_options
from medtask.display import format_count
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.runs.gold_collection import GoldCollection

_SELECTIONS = {
    "table": "had gold in the table",
    "random": "chosen without regard to their answers",
    "audit": "drawn for an audit, which weighs them",
    "review": "reviewed because they were doubtful: used for training, left out of metrics",
}


@add_read_options
def gold(
    source: AnswersPath,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Tables with corrections; default: review.csv and the audit sample of the run.",
        ),
    ] = None,
    gold: GoldSource = None,
    selection: Annotated[
        Literal["random", "audit", "review"] | None,
        typer.Option(help="How the rows of the files were chosen; default: as the files say."),
    ] = None,
    task: TaskFile = None,
    *,
    read_options: ReadOptions,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of gold.csv; default: the run folder."),
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="FORMATS", help="Formats of gold beside CSV, such as xlsx.")
    ] = "csv",
    as_json: AsJson = False,
) -> None:
    """Collect corrections from review.csv and audit samples as gold.

    Write the right answer into the column corrected of review.csv ("ok" confirms the answer, a
    blank cell says nothing). The result, gold.csv, is for evaluate --gold and for train.
    """
    from medtask.runs.gold_collection import gold as collect_gold
    from medtask.tasks.load import load_task

    collected = collect_gold(
        source,
        *(files or ()),
        gold=gold,
        selection=selection,
        task=load_task(task) if task else None,
        out=out,
        formats=split_formats(to),
        **read_options.to_values(),
    )
    if as_json:
        show.print_json(collected.to_json())
        return
    _print_gold(collected)
    _print_steps(collected, ["evaluate", str(source), *(["--task", str(task)] if task else [])])


def _print_gold(collected: GoldCollection) -> None:
    for note in collected.notes:
        show.print_fact("note", note)
    show.print_line(
        (str(collected.file), "bold"),
        f"   {format_count(collected.rows, 'row')} with gold: {collected.added:,} added, "
        f"{collected.changed:,} changed",
    )
    written = collected.corrected + collected.confirmed
    show.print_line(
        f"  {format_count(written, 'correction')} read: {collected.corrected:,} differ from the "
        f"answer, {collected.confirmed:,} confirm it; "
        f"{written - collected.added - collected.changed:,} agree with gold that there was",
    )
    for name, meaning in _SELECTIONS.items():
        if rows := collected.selections.get(name):
            show.print_line(f"  {format_count(rows, 'row')} {meaning}")


def _print_steps(collected: GoldCollection, evaluate: list[str]) -> None:
    """Print the next commands; no training if the table of answers has no texts."""
    from medtask.tables.read import read_table
    from medtask.tasks.rows import check_columns

    named = str(collected.task.source or "TASK")
    # The task file need not name the column: the run's --gold may have.
    gold = ["--gold", collected.task.gold_column or "gold"]
    file = str(collected.file)
    steps = {
        "measure again": [*evaluate, "--gold", file],
        "calibrate": [*evaluate, "--gold", file, "--calibrate", "auto"],
    }
    # The task of a table without the texts has no input.
    task = replace(collected.task, gold_column=None)
    if task.input and not check_columns(task, read_table(file).columns):
        steps["train"] = ["train", named, file, *gold, "--out", "MODEL"]
    for name, words in steps.items():
        show.print_line(f"  {name + ':':<15}{shlex.join(['medtask', *words])}")
