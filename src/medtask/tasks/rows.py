"""Rows of a table into records of a task, and what must be true of a table before its rows are asked about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medtask.errors import InputError, TableError, TaskFault
from medtask.records import Record
from medtask.tasks.hints import closest, did_you_mean, list_columns, quote
from medtask.tasks.hygiene import read_cell
from medtask.tasks.source import Document, read_document
from medtask.tasks.task import Task
from medtask.tasks.template import read_template

LISTED_GOLD = 20


@dataclass(frozen=True, slots=True)
class UnknownGold:
    """A gold value that is no label: how often it stands in the table, where first (1-based), which label is near."""

    count: int
    first_row: int
    meant: str | None


def read_records(
    task: Task, rows: Iterable[Mapping[str, object]], *, gold_column: str | None = None, first_row: int = 1
) -> Iterator[Record]:
    """One record per row. Without an id column the id is the row's number; ``gold_column`` replaces the task's own.

    Raises TableError for a row without an id.
    """
    gold = gold_column or task.gold_column
    for number, row in enumerate(rows, first_row):
        name = str(number) if task.id_column is None else read_cell(row.get(task.id_column))
        if name is None:
            message = f"row {number} has no id in the column {quote(task.id_column)}"
            raise TableError(message, fix="fill it in, or leave id out of the task file")
        yield Record(name, row, read_cell(row.get(gold)) if gold else None)


def check_columns(task: Task, columns: Sequence[str], *, gold_column: str | None = None) -> tuple[TaskFault, ...]:
    """What the task needs and the table does not have; nothing if all is there."""
    known = set(columns)
    template = read_template(task.input)
    wanted = [("input", f"input uses {_write_use(column)}", column, line) for column, line in template.columns.items()]
    gold = gold_column or task.gold_column
    wanted += [(key, f"{key} is {quote(column)}", column, 1) for key, column in (("id", task.id_column), ("gold", gold)) if column]
    missing = [want for want in wanted if want[2] not in known]
    if not missing:
        return ()
    document = _reread(task)
    return tuple(
        TaskFault(
            document.line(key, text_line=line) if document and not (key == "gold" and gold_column) else None,
            f"{message}, but the table has {list_columns(columns)}{did_you_mean(column, columns)}",
        )
        for key, message, column, line in missing
    )


def unknown_gold(task: Task, records: Iterable[Record]) -> dict[str, UnknownGold]:
    """Gold values that are no answer of the task, the first 20 different ones, from one pass over the records."""
    names = {label.name for label in task.candidates}
    counts: dict[str, list[int]] = {}
    for number, record in enumerate(records, 1):
        if record.gold is None or record.gold in names:
            continue
        if record.gold in counts:
            counts[record.gold][0] += 1
        elif len(counts) < LISTED_GOLD:
            counts[record.gold] = [1, number]
    return {value: UnknownGold(count, row, closest(value, names)) for value, (count, row) in counts.items()}


def _write_use(column: str) -> str:
    return f"{{{{ {column} }}}}" if column.isidentifier() else f"row[{quote(column)}]"


def _reread(task: Task) -> Document | None:
    """The task's file again, for its line numbers: a task does not carry them."""
    try:
        return read_document(task.source) if task.source else None
    except InputError:
        return None
