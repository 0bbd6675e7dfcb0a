"""Arguments shared by several commands, and opening of their tables."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.display import format_count, format_list
from medtask.errors import UsageError
from medtask.tables.read_options import DuplicateRule, ReadOptions

if TYPE_CHECKING:
    from medtask.tables.table import Table
    from medtask.tasks.task import Task

TaskPath = Annotated[
    Path, typer.Argument(metavar="TASK", help="A task file, or a folder that contains task.yaml.")
]
DataSource = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A table, a folder of tables, or - for standard input; default: the task's table.",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Model reference; default: the task's model, else smollm2-135m."
    ),
]
GoldColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with the reference answers; default: the task's."),
]
OnDuplicate = Annotated[
    DuplicateRule | None,
    typer.Option(
        help="Rows that repeat the id of an earlier row: add a number to their ids, or leave them "
        "out; default: the table is refused.",
    ),
]
AnswersPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|TABLE", help="A run's folder, or a table with the columns id and answer."
    ),
]
GoldSource = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|FILE",
        help="Column or file with the reference answers; default: that of the run or task.",
    ),
]
TaskFile = Annotated[
    Path | None,
    typer.Option("--task", metavar="TASK", help="The task, if the run or table does not name it."),
]
KindName = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help="Kind of the answers in a table: label, labels, answer or fields."
    ),
]
GroupName = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column that groups dependent rows, such as the rows of one patient."
    ),
]
FlipCheck = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Ask N rows again in other batches, and report how many answers change.",
    ),
]
ShardedRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run in shards.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Disable all downloads, including the named model.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no notes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@contextmanager
def open_table(
    task: Task,
    data: str | None,
    options: ReadOptions,
    get_spool_folder: Callable[[], Path] | None = None,
) -> Iterator[Table]:
    """Open the named table; default: the task's table.

    For "-", standard input is stored in a private folder until the block ends, because a table is
    read more than once. The folder is created in ``get_spool_folder``; default: the temporary
    folder of the system.
    """
    from medtask.tables.read import read_table, spool_stdin
    from medtask.tables.repeated_ids import resolve_repeated_ids

    if data == "-":
        parent = get_spool_folder() if get_spool_folder else Path(tempfile.gettempdir())
        _remove_left_folders(parent)
        prefix = f"{_get_spool_prefix()}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
            table = read_table(spool_stdin(Path(folder)), options)
            yield resolve_repeated_ids(table, task.id_column)
        return
    source = data or task.data
    if source is None:
        raise UsageError(
            "no table is named",
            fix="name one after the task, or write `data: TABLE` into the task file",
        )
    table = read_table(_normalize_path(Path(source)), options)
    yield resolve_repeated_ids(table, task.id_column)


def _get_spool_prefix() -> str:
    """With the name of the machine, because a folder can be shared."""
    return f".medtask-stdin-{socket.gethostname().replace('-', '_')}-"


def _remove_left_folders(parent: Path) -> None:
    """Remove what killed commands of this machine and user have left of their standard input."""
    import psutil

    prefix = _get_spool_prefix()
    with suppress(OSError):
        for folder in parent.glob(f"{prefix}*-*"):
            process = folder.name.removeprefix(prefix).partition("-")[0]
            if process.isdigit() and not psutil.pid_exists(int(process)) and _is_own(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def _normalize_path(path: Path) -> Path:
    """The path without "task/../", unless that is another file because of a link."""
    short = Path(os.path.normpath(path))
    return short if short.exists() and short.samefile(path) else path


def split_formats(to: str) -> list[str]:
    """The names of formats that are separated by commas."""
    return [name.strip().lower() for name in to.split(",") if name.strip()]


def choose_model(task: Task, model: str | None) -> str:
    """The named model; default: the task's, then the built-in model."""
    from medtask.engines.files.model_files import BUILT_IN_MODEL

    return model or task.model or BUILT_IN_MODEL


def describe_default_model(reference: str) -> str:
    """The note for users who have not named a model."""
    return (
        f"no model is named: {reference} answers, which knows little without training; name one "
        "with --model"
    )


def disable_downloads(offline: bool) -> None:
    """With ``offline``, forbid all downloads of this process, including the named model."""
    if offline:
        os.environ.update(MEDTASK_OFFLINE="1", HF_HUB_OFFLINE="1")


def describe_table(table: Table, rows: int) -> str:
    """ "procedures.xlsx: 41,230 rows, columns case_id, procedure (UTF-8)"."""
    notes = f" ({', '.join(table.notes)})" if table.notes else ""
    return (
        f"{table.source}: {format_count(rows, 'row')}, columns {format_list(table.columns)}{notes}"
    )
