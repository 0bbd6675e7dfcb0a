"""`medtask init`: draft a task file from the columns of a table."""

from __future__ import annotations

import json
import os
import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import describe_table
from medtask.cli.table_options import add_read_options, format_read_options
from medtask.errors import UsageError
from medtask.tables.read_options import ReadOptions

SCHEMA_FILE = "task.schema.json"  # beside the task file: editors need no network
_SAMPLE_ROWS = 5_000  # rows from which the columns of text, ids and gold are guessed


@add_read_options
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NAME_OR_DIR", help="Folder of the task; its last part is the task's name."
        ),
    ],
    table: Annotated[
        str, typer.Option("--from", metavar="TABLE", help="Table that the task is written for.")
    ],
    *,
    read_options: ReadOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing task file.")] = False,
) -> None:
    """Draft a task file from a table."""
    from medtask.tables.read import read_table, validate_table
    from medtask.tasks.label_definitions import PLACEHOLDER_LABELS
    from medtask.tasks.task_draft import draft_task_file

    file = folder / "task.yaml"
    if file.exists() and not force:
        raise UsageError(
            f"{file} already exists", fix="choose another name, or replace it with --force"
        )
    source_table = read_table(table, read_options)
    rows = validate_table(source_table, None).rows
    show.print_line(f"Read {describe_table(source_table, rows)}.")
    draft = draft_task_file(
        folder.resolve().name,
        source_table.columns,
        list(islice(source_table, _SAMPLE_ROWS)),
        data=os.path.relpath(table, folder),
    )
    _write_task_file(file, draft)
    to_do = (
        "fill in the labels"
        if PLACEHOLDER_LABELS[0] in draft
        else "check gold, and write what belongs to each label"
    )
    _write_schema(folder / SCHEMA_FILE)
    show.print_line(
        f"Wrote {file} - {to_do}, then: medtask check {shlex.quote(str(folder))}"
        + format_read_options(read_options)
    )


def _write_schema(file: Path) -> None:
    """Write the schema that the first line of the task file names, for editors."""
    from medtask.atomic_files import replace_text
    from medtask.tasks.json_schema import build_task_schema

    replace_text(file, json.dumps(build_task_schema(), indent=1, ensure_ascii=False) + "\n")


def _write_task_file(file: Path, text: str) -> None:
    from medtask.atomic_files import make_storage_error, replace_text

    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise make_storage_error(file, error) from error
    replace_text(file, f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}")
