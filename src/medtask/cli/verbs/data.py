"""`medtask data`: rows with gold made ready for a trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    Quiet,
    SheetName,
    TaskPath,
    open_table,
)
from medtask.cli.recipe import Cap, MinCount, Share, ValidationTable

if TYPE_CHECKING:
    from medtask.train.material import Material

data = typer.Typer(
    name="data",
    help="Make rows with gold ready for a trainer.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.callback()
def _data() -> None:
    """Make rows with gold ready for a trainer."""


@data.command()
def prepare(
    task: TaskPath,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where the files go: a new folder, or one of an earlier preparation.",
        ),
    ],
    data: DataSource = None,
    validation: ValidationTable = None,
    share: Share = 0.1,
    min_count: MinCount = 1,
    cap: Cap = None,
    gold: GoldColumn = None,
    form: Annotated[
        Literal["messages", "prompt-completion"],
        typer.Option("--format", help="A line is the whole chat, or question and answer apart."),
    ] = "messages",
    sheet: SheetName = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows that are set aside.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write rows with gold as chats that trainers read, cleaned and divided.

    Duplicates, contradictions and rows without gold are left out (cleaning.csv says why); no
    patient, no text and no near duplicate is in both parts.
    """
    from medtask.data.read import read_table
    from medtask.privacy import no_network
    from medtask.tasks.load import load_task
    from medtask.train.chat_rows import check_data_folder, prepare_data
    from medtask.train.material import Selection, gather_material

    question = load_task(task)
    with no_network(), open_table(question, data, sheet) as table:
        check_data_folder(out)
        held = read_table(validation) if validation is not None else None
        selection = Selection(share, min_count, cap)
        material = gather_material(
            question, table, gold_column=gold, validation=held, selection=selection, seed=seed
        )
        told = prepare_data(out, material, form)
    if as_json:
        show.show_json({"folder": str(out), **told})
    elif not quiet:
        _show(out, material, told)


def _show(folder: Path, material: Material, told: dict[str, Any]) -> None:
    from medtask.train.material import describe_material

    lines = [("rows", line) for line in (material.cleaning.tell() if material.cleaning else [])]
    if material.validation_cleaning:
        lines += [("validation", line) for line in material.validation_cleaning.tell()]
    lines += [("split", line) for line in describe_material(material)]
    lines += [("split", material.divided.tell())] if material.divided else []
    lines += [("leaks", line) for line in (material.leaks.tell() if material.leaks else [])]
    last = ""
    for name, line in lines:
        show.fact(name if name != last else "", line)
        last = name
    for note in material.notes:
        show.warn(note)
    if told["phi"] == "yes":
        show.warn(
            "these files hold patients' texts in plain words: keep them where the table may be kept"
        )
    show.say((f"{folder}{os.sep}", "bold"), f"   {'  '.join([*told['files'], 'data.json'])}")
