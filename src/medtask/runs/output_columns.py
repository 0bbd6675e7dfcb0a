"""The columns that a run adds to its table, and their cell values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

from medtask.records import Answer
from medtask.tables.cell_values import format_json_cell
from medtask.tables.table import Column
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task

DEFAULT_FORMATS = ("csv", "parquet")
ROUNDED_FORMATS = ("csv", "xlsx")  # without probabilities, and with 4 decimals
WIDE_FORMATS = ("xlsx",)  # in which fields always have columns of their own
ACCEPTED = "accepted"  # status in accepted.csv
CORRECTED_COLUMN = "corrected"  # of review.csv: people write the right answer there
ANSWER_COLUMNS = ("answer", "confidence", "status", "reason")
_PROBABILITY_COLUMNS = ("probabilities", "uncalibrated")
# All names that a run may add.
_RESERVED_COLUMNS = frozenset((*ANSWER_COLUMNS, "pass", *_PROBABILITY_COLUMNS))
OUTPUT_COLUMNS = _RESERVED_COLUMNS | {"written", "quotes"}


def list_output_columns(task: Task, *, rounded: bool, calibrated: bool = False) -> list[Column]:
    """The columns that answers to this task add to a table.

    ``rounded`` is for formats read by people; ``calibrated`` adds the uncalibrated probabilities.
    """
    kind = get_task_kind(task)
    columns = [
        Column("answer", "nested", schema=kind.answer_schema)
        if kind.answer_schema is not None
        else Column("answer", "texts" if task.several else "text"),
        Column("confidence", "float"),
        Column("status", "text"),
        Column("reason", "text"),
        Column("pass", "text"),
    ]
    if task.outcomes and not rounded:
        names = _PROBABILITY_COLUMNS if calibrated else _PROBABILITY_COLUMNS[:1]
        columns += [Column(name, "probabilities", task.outcomes) for name in names]
    if kind.has_sections:
        columns.append(Column("written", "text"))
    if kind.has_quotes:
        columns.append(Column("quotes", "text"))
    return columns


def rename_columns(
    task: Task, columns: Sequence[str], *, ignore_case: bool = False
) -> dict[str, str]:
    """The table's columns -> their output names, which differ if an output column has that name.

    ``ignore_case`` is for systems in which "Answer" and "answer" are the same name.
    """
    output_columns = _RESERVED_COLUMNS | {
        column.name for column in list_output_columns(task, rounded=False)
    }
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while (name.lower() if ignore_case else name) in output_columns or (
            name != column and name in columns
        ):
            name = f"input_{name}"
        names[column] = name
    return names


def find_free_name(name: str, taken: Collection[str], prefix: str) -> str:
    """The name, with as many prefixes as make it differ from those that are taken."""
    while name in taken:
        name = f"{prefix}{name}"
    return name


def get_cell(name: str, answer: Answer) -> object:
    """The cell of an output column, with exact numbers."""
    match name:
        case "answer":
            return answer.value
        case "status":
            return str(answer.status)
        case "pass":
            return answer.pass_name
        case "written":
            return answer.text
        case "quotes":
            quotes = {field: asdict(quote) for field, quote in (answer.quotes or {}).items()}
            return format_json_cell(quotes) if quotes else None
    return getattr(answer, name)


def round_cell(name: str, cell: object) -> object:
    """A cell from `get_cell` for people: with 4 decimals, and several labels joined as text."""
    if name == "answer" and isinstance(cell, tuple):
        return "; ".join(map(str, cell))
    return round(cell, 4) if name == "confidence" and isinstance(cell, float) else cell
