"""Rows of a table into records of a task, and what must be true of a table before its rows are
asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medtask.display import find_closest, format_columns, format_suggestion, quote
from medtask.errors import InputError, TableError, TaskFault
from medtask.records import Record
from medtask.tables.cell_values import read_cell
from medtask.tasks.document import Document, read_document
from medtask.tasks.gold_values import find_invalid_gold, read_gold
from medtask.tasks.input_template import read_template
from medtask.tasks.prompt import find_extra_columns
from medtask.tasks.task import MultipleChoice, Task

MAX_LISTED_GOLD = 20


@dataclass(frozen=True, slots=True)
class UnknownGold:
    """Gold that the task could not answer (see find_strange): in how many rows, which is the first
    (from 1), which label is near.
    """

    count: int
    first_row: int
    suggestion: str | None


def read_records(
    task: Task,
    rows: Iterable[Mapping[str, object]],
    *,
    gold_column: str | None = None,
    first_row: int = 1,
) -> Iterator[Record]:
    """One record per row. Without an id column the id is the row's number; ``gold_column`` replaces
    the task's own.

    Raises TableError for a row without an id.
    """
    gold = gold_column or task.gold_column
    for number, row in enumerate(rows, first_row):
        name = str(number) if task.id_column is None else read_cell(row.get(task.id_column))
        if name is None:
            message = f"row {number} has no id in the column {quote(task.id_column)}"
            raise TableError(message, fix="fill it in, or leave id out of the task file")
        group = read_cell(row.get(task.group_column)) if task.group_column else None
        yield Record(name, row, read_gold(task, row, row.get(gold)) if gold else None, group)


def check_columns(
    task: Task, columns: Sequence[str], *, gold_column: str | None = None
) -> tuple[TaskFault, ...]:
    """What the task needs and the table does not have; nothing if all is there."""
    known = set(columns)
    template = read_template(task.input)
    wanted = [
        ("input", f"input uses {_format_column_use(column)}", column, line)
        for column, line in template.columns.items()
    ]
    wanted += _list_answer_columns(task)
    gold = gold_column or task.gold_column
    named = (("id", task.id_column), ("gold", gold), ("group", task.group_column))
    wanted += [(key, f"{key} is {quote(column)}", column, 1) for key, column in named if column]
    missing = [want for want in wanted if want[2] not in known]
    if not missing:
        return ()
    document = _reread_document(task)
    return tuple(
        TaskFault(
            document.find_line(*key.split("."), text_line=line)
            if document and not (key == "gold" and gold_column)
            else None,
            f"{message}, but the table has "
            f"{format_columns(columns)}{format_suggestion(column, columns)}",
        )
        for key, message, column, line in missing
    )


def _list_answer_columns(task: Task) -> list[tuple[str, str, str, int]]:
    """What the answer's columns are, as check_columns wants them: (key, what names it, column, line
    of its text).
    """
    key = "answer.options" if isinstance(task.answer_spec, MultipleChoice) else "answer.context"
    return [
        (key, f"{key.removeprefix('answer.')} names {quote(column)}", column, 1)
        for column in find_extra_columns(task.answer_spec)
    ]


def find_unknown_gold(task: Task, records: Iterable[Record]) -> dict[str, UnknownGold]:
    """Gold that is no answer of the task, the first 20 different ones, from one pass over the
    records.
    """
    names = [label.name for label in task.candidates]
    counts: dict[str, list[int]] = {}
    for number, record in enumerate(records, 1):
        for value in (
            () if record.gold is None else find_invalid_gold(task, record.fields, record.gold)
        ):
            if value in counts:
                counts[value][0] += 1
            elif len(counts) < MAX_LISTED_GOLD:
                counts[value] = [1, number]
    return {
        value: UnknownGold(count, row, find_closest(value, names))
        for value, (count, row) in counts.items()
    }


def _format_column_use(column: str) -> str:
    return f"{{{{ {column} }}}}" if column.isidentifier() else f"row[{quote(column)}]"


def _reread_document(task: Task) -> Document | None:
    """The task's file again, for its line numbers: a task does not carry them."""
    try:
        return read_document(task.source) if task.source else None
    except InputError:
        return None
