"""`medtask data`: prepare rows with gold for other trainers, and the schema of task files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    OnDuplicate,
    Quiet,
    TaskPath,
    open_table,
)
from medtask.cli.table_options import add_read_options
from medtask.cli.training_options import (
    MaxLabelRows,
    MinLabelRows,
    ValidationShare,
    ValidationTable,
)
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.training.training_data import TrainingData

data = typer.Typer(
    name="data",
    help="Prepare training data; the schema of task files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.callback()
def _data_callback() -> None:
    """Prepare training data; the schema of task files."""


@data.command()
def schema() -> None:
    """Print the JSON Schema of task files, for editors."""
    from medtask.tasks.json_schema import build_task_schema

    show.print_json(build_task_schema())


@data.command()
@add_read_options
def prepare(
    task: TaskPath,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Output folder: a new one, or one of an earlier preparation."
        ),
    ],
    data: DataSource = None,
    validation: ValidationTable = None,
    share: ValidationShare = 0.1,
    min_count: MinLabelRows = 1,
    cap: MaxLabelRows = None,
    gold: GoldColumn = None,
    form: Annotated[
        Literal["messages", "prompt-completion"],
        typer.Option("--format", help="One chat per line, or prompt and completion as two fields."),
    ] = "messages",
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the validation split.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write rows with gold as chat data for other trainers.

    Duplicates, contradictions and rows without gold are left out (see cleaning.csv). No group,
    text or near duplicate is in both parts.
    """
    from medtask.privacy import block_network
    from medtask.tables.read import read_table
    from medtask.tasks.load import load_task
    from medtask.training.chat_data import check_data_folder, prepare_chat_data
    from medtask.training.training_data import RowSelection, build_training_data

    loaded_task = load_task(task)
    options = replace(read_options, on_duplicate=on_duplicate)
    with block_network(), open_table(loaded_task, data, options) as table:
        check_data_folder(out)
        validation_table = (
            read_table(validation, read_options.for_further_tables())
            if validation is not None
            else None
        )
        selection = RowSelection(share, min_count, cap)
        training_data = build_training_data(
            replace(loaded_task, gold_column=gold or loaded_task.gold_column),
            table,
            validation=validation_table,
            selection=selection,
            seed=seed,
        )
        document = prepare_chat_data(out, training_data, form)
    if as_json:
        show.print_json({"folder": str(out), **document})
    elif not quiet:
        _print_result(out, training_data, document)


def _print_result(folder: Path, training_data: TrainingData, document: dict[str, Any]) -> None:
    from medtask.training.training_data import describe_training_data

    lines = [
        ("rows", line)
        for line in (training_data.cleaning.describe() if training_data.cleaning else [])
    ]
    if training_data.validation_cleaning:
        lines += [("validation", line) for line in training_data.validation_cleaning.describe()]
    lines += [("split", line) for line in describe_training_data(training_data)]
    lines += [("split", training_data.split.describe())] if training_data.split else []
    lines += [
        ("leaks", line)
        for line in (training_data.leakage.describe() if training_data.leakage else [])
    ]
    last = ""
    for name, line in lines:
        show.print_fact(name if name != last else "", line)
        last = name
    for note in training_data.notes:
        show.print_warning(note)
    if document["phi"] == "yes":
        show.print_warning(
            "these files contain patients' texts: store them only where the table may be stored"
        )
    show.print_line(
        (f"{folder}{os.sep}", "bold"), f"   {'  '.join([*document['files'], 'data.json'])}"
    )
