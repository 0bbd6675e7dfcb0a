"""Rows of a table as records of a task: ids, gold, groups, and checks of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from medtask.display import find_closest, format_columns, format_suggestion, quote
from medtask.errors import InputError, TableError, TaskFault, TaskFaults
from medtask.names import Names
from medtask.records import Record, Value
from medtask.tables.cell_values import read_key, read_present_key
from medtask.tables.missing import MissingText, mark_missing
from medtask.tables.table import Table
from medtask.tasks.annotation_shapes import describe_shape
from medtask.tasks.input_template import read_template
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.kinds.base import TaskKind
from medtask.tasks.task import Task
from medtask.unicode_text import describe_lookalike

MAX_LISTED_GOLD = 20
_CHECKED_ROWS = 100


@dataclass(frozen=True, slots=True)
class UnknownGold:
    """A gold value that is not a valid answer of the task.

    Attributes:
        count: The number of rows with this value.
        first_row: The first such row, from 1.
        suggestion: The most similar label; None without one.
        difference: How the value differs from a label that looks the same; "" for others.
        ambiguous: The labels that the value fits equally well.
        shape: The shape of a value that is a list or an object; "" for others.
    """

    count: int
    first_row: int
    suggestion: str | None
    ambiguous: tuple[str, ...] = ()
    shape: str = ""
    difference: str = ""

    def describe_meaning(self) -> str:
        """'perhaps "curative"', 'looks like "A", but has Cyrillic letters', or ""."""
        if self.shape:
            return self.shape
        if self.ambiguous:
            return f"fits {' and '.join(map(quote, self.ambiguous))} equally well"
        if self.difference:
            return f"looks like {quote(self.suggestion)}, but {self.difference}"
        return f"perhaps {quote(self.suggestion)}" if self.suggestion else ""


@dataclass(frozen=True, slots=True)
class GoldCheck:
    """The gold of a table.

    Attributes:
        valid_rows: Number of rows whose gold is a valid answer.
        invalid_rows: Number of rows whose gold is not one.
        unknown: The first 20 distinct values that are not valid answers.
    """

    valid_rows: int
    invalid_rows: int
    unknown: Mapping[str, UnknownGold]


def read_records(
    task: Task,
    rows: Iterable[Mapping[str, object]],
    *,
    gold_column: str | None = None,
    first_row: int = 1,
) -> Iterator[Record]:
    """One record per row. Without an id column the id is the row's number.

    Args:
        task: The task, which names the columns of ids, gold and groups.
        rows: Mappings from column to value.
        gold_column: Replaces the task's own gold column.
        first_row: The number of the first row.

    Raises:
        TableError: A row has no id.
    """
    gold, kind = gold_column or task.gold_column, get_task_kind(task)
    if not isinstance(rows, Table):  # a table has its own words for missing values
        rows = map(mark_missing, rows)
    for number, row in enumerate(rows, first_row):
        name = str(number) if task.id_column is None else read_key(row.get(task.id_column))
        if name is None:
            message = f"row {number} has no id in the column {quote(task.id_column)}"
            raise TableError(message, fix="fill it in, or leave id out of the task file")
        group = read_present_key(row.get(task.group_column)) if task.group_column else None
        gold_value = _read_accepted_gold(kind, row, row.get(gold)) if gold else None
        yield Record(name, _restore_names(kind, row), gold_value, group)


def _restore_names(kind: TaskKind[Any], row: Mapping[str, object]) -> Mapping[str, object]:
    """The row, in which a word for a missing value is a text if the task has a name like it."""
    if MissingText not in map(type, row.values()):
        return row
    words = [column for column, cell in row.items() if isinstance(cell, MissingText)]
    if not any(kind.has_name(row, str(row[column])) for column in words):
        return row
    return {
        column: str(cell) if column in words and kind.has_name(row, str(cell)) else cell
        for column, cell in row.items()
    }


def read_gold(task: Task, row: Mapping[str, object], cell: object) -> Value | None:
    """A row's gold as a value of the task; the cell's text if not valid; None if missing.

    A word for a missing value is a value only if the task, or the row's options, have that name.

    Several labels are a list, a list as text, or names separated by ";", "|" or ","; unknown names
    are kept. An option is its letter, its key in the row's mapping, or its text. Fields are a
    mapping, or a mapping as text.
    """
    return _read_accepted_gold(get_task_kind(task), row, cell)


def _read_accepted_gold(
    kind: TaskKind[Any], row: Mapping[str, object], cell: object
) -> Value | None:
    """The gold of a row, but of Prodigy's records only of those that the annotator accepted."""
    if "_task_hash" in row and row.get("answer") in ("reject", "ignore"):
        return None
    return kind.read_gold(row, cell)


def read_gold_column(
    task: Task, cells: Iterable[tuple[Mapping[str, object], object]]
) -> tuple[Task, list[str]]:
    """The task that reads a column of gold, and notes that follow the name of the column.

    For multiple choice, a letter can also be the text of another option, and a number can be a text
    or a position. What the column holds is inferred where only one form fits all of its rows.

    Args:
        task: The task.
        cells: Rows, with the columns that the task uses, and their cells.
    """
    return get_task_kind(task).read_gold_column(cells)


def find_invalid_gold(task: Task, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
    """The invalid parts of a row's gold from `read_gold`.

    They are names that are not labels, a text that is not an option, or names of fields.
    """
    return get_task_kind(task).find_invalid_gold(row, gold)


def require_extras(task: Task, table: Table) -> None:
    """Raise TableError if no row has readable options or what else the kind reads of a row.

    The first rows are read.
    """
    kind = get_task_kind(task)
    problems = [kind.read_extras(row) for row in islice(table, _CHECKED_ROWS)]
    if problems and all(isinstance(problem, str) for problem in problems):
        raise TableError(
            f"{table.source}: no row can be asked (row 1: {problems[0]})",
            fix=f"check the column under {kind.columns_key} in the task",
        )


def check_columns(
    task: Task, columns: Sequence[str], *, gold_column: str | None = None
) -> tuple[TaskFault, ...]:
    """A fault for each column that the task requires and that is missing in the table."""
    lines = task.source_lines
    return tuple(
        TaskFault(
            lines.find(*path, text_line=line)
            if lines and not (path == ("gold",) and gold_column)
            else None,
            f"{message}, but the table has "
            f"{format_columns(columns)}{format_suggestion(column, columns)}",
        )
        for path, message, column, line in _list_needed_columns(task, gold_column)
        if column not in columns
    )


def _list_needed_columns(
    task: Task, gold_column: str | None
) -> list[tuple[tuple[str, ...], str, str, int]]:
    """Path in the task, words for its use, name and line of each column that the task requires."""
    kind, gold = get_task_kind(task), gold_column or task.gold_column
    needed: list[tuple[tuple[str, ...], str, str, int]] = [
        (("input",), f"input uses {_format_column_use(column)}", column, line)
        for column, line in read_template(task.input).columns.items()
    ]
    needed += [
        (("answer", kind.columns_key), f"{kind.columns_key} names {quote(column)}", column, 1)
        for column in kind.columns
    ]
    named = (("id", task.id_column), ("gold", gold), ("group", task.group_column))
    needed += [((key,), f"{key} is {quote(column)}", column, 1) for key, column in named if column]
    return needed


def require_columns(task: Task, table: Table, *, gold_column: str | None = None) -> None:
    """Check that the table has all columns that the task uses.

    Raises:
        TableError: They are in another row or sheet than the one taken for the header.
        InputError: The table has no column ``gold_column``.
        TaskFaults: Columns that the task names are missing.
    """
    faults = check_columns(task, table.columns, gold_column=gold_column)
    if not faults:
        return
    needed = {column for _, _, column, _ in _list_needed_columns(task, gold_column)}
    if error := table.explain_missing(needed):
        raise error
    hint = (
        f"; if the column names are not in {table.header_place}, add --header-row or --sheet"
        if table.header_place
        else ""
    )
    if gold_column and not check_columns(replace(task, gold_column=None), table.columns):
        fix = f"name the column of gold as the table does{hint}"
        raise InputError(faults[0].message, fix=fix)
    raise TaskFaults(str(task.source or task.name), faults, hint=hint)


def check_gold(task: Task, records: Iterable[Record]) -> GoldCheck:
    """Read the gold of all records, and list what is not a valid answer of the task."""
    kind, names = get_task_kind(task), Names(label.name for label in task.candidates)
    counts: dict[str, list[int]] = {}
    valid_rows = invalid_rows = 0
    for number, record in enumerate(records, 1):
        if record.gold is None:
            continue
        invalid = kind.find_invalid_gold(record.fields, record.gold)
        valid_rows += not invalid
        invalid_rows += bool(invalid)
        for value in invalid:
            if value in counts:
                counts[value][0] += 1
            elif len(counts) < MAX_LISTED_GOLD:
                counts[value] = [1, number]
    found = {}
    for value, (count, row) in counts.items():
        closest = find_closest(value, names.names)
        found[value] = UnknownGold(
            count,
            row,
            closest,
            names.match(value).ambiguous,
            describe_shape(value),
            describe_lookalike(value, closest) if closest else "",
        )
    return GoldCheck(valid_rows, invalid_rows, found)


def _format_column_use(column: str) -> str:
    return f"{{{{ {column} }}}}" if column.isidentifier() else f"row[{quote(column)}]"
