"""`medtask init`: the first draft of a task file, from the columns of a table."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from medtask.cli import show
from medtask.cli.inputs import SheetName, describe_table
from medtask.errors import UsageError

_SAMPLE = 200  # rows that are looked at to guess which column holds the text, and which the id


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NAME_OR_DIR", help="The task's folder; its last part is the task's name."
        ),
    ],
    table: Annotated[
        str,
        typer.Option("--from", metavar="TABLE", help="The table that the task will be asked of."),
    ],
    sheet: SheetName = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a task file that is there.")
    ] = False,
) -> None:
    """Draft a task file from a table."""
    from medtask.data.read import read_table, survey
    from medtask.tasks.draft import draft_task

    file = folder / "task.yaml"
    if file.exists() and not force:
        raise UsageError(
            f"{file} is already there", fix="choose another name, or replace it with --force"
        )
    read = read_table(table, sheet=sheet)
    rows = survey(read, None).rows
    show.say(f"Read {describe_table(read, rows)}.")
    draft = draft_task(
        folder.resolve().name,
        read.columns,
        list(islice(read, _SAMPLE)),
        data=os.path.relpath(table, folder),
    )
    _write(file, draft)
    show.say(f"Wrote {file} - fill in the labels, then: medtask check {folder}")


def _write(file: Path, text: str) -> None:
    from medtask.data.atomic import replace_text, storage_error

    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise storage_error(file, error) from error
    replace_text(file, text)
