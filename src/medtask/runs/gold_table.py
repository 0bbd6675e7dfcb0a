"""Tables of gold: the input columns, the gold of each row, who decided it, and how it was chosen.

`medtask gold` and the reviews of the server write this format, and everything that reads gold reads
it: ``medtask evaluate RUN --gold FILE``, ``medtask train TASK FILE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from medtask.records import LeftOut, Value
from medtask.runs.output_columns import find_free_name
from medtask.tables.cell_values import format_json_cell, read_cell
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task

SELECTION_COLUMN = "gold_selection"
_TEXT_FORMATS = (".csv", ".xlsx")


class GoldSelection(StrEnum):
    """Why a row has gold.

    TABLE: the table had it. RANDOM: the row was drawn at random, or chosen without regard to its
    answer. AUDIT: it was drawn for an audit, with another probability for each confidence.
    REVIEW: its answer was doubtful, or it is not known how it was chosen.
    """

    TABLE = "table"
    RANDOM = "random"
    AUDIT = "audit"
    REVIEW = "review"


# Rows that were chosen by their answers: metrics on them say nothing about other rows.
LEFT_OUT_BY_SELECTION: Mapping[str, LeftOut] = {
    GoldSelection.REVIEW: LeftOut.REVIEW,
    GoldSelection.AUDIT: LeftOut.AUDIT,
}


class GoldProvenance(NamedTuple):
    """Who decided a row's gold, when, how, their comment, and how the row was chosen."""

    by: str = ""
    at: str = ""
    how: str = ""
    comment: str = ""
    selection: str = GoldSelection.TABLE


class GoldRow(NamedTuple):
    """A row of a table of gold; ``value`` is in the form in which the task reads gold."""

    fields: Mapping[str, object]
    record_id: str
    value: Value
    provenance: GoldProvenance


@dataclass(frozen=True, slots=True)
class GoldColumns:
    """The columns of a table of gold.

    Attributes:
        task: The task, whose gold column and id column it has; by default "gold" and "id".
        inputs: The columns of the table, without gold.
    """

    task: Task
    inputs: tuple[str, ...]

    @classmethod
    def of_table(cls, task: Task, columns: Iterable[str]) -> GoldColumns:
        """The columns for the rows of a table with these columns."""
        gold = task.gold_column or "gold"
        return cls(task, tuple(name for name in columns if name != gold))

    @property
    def gold(self) -> str:
        return self.task.gold_column or "gold"

    @property
    def ids(self) -> tuple[str, ...]:
        """The column of ids, if it is not among the inputs."""
        name = self.task.id_column or "id"
        return () if name in self.inputs else (name,)

    @property
    def provenance(self) -> tuple[str, ...]:
        return tuple(
            find_free_name(f"gold_{name}", self.inputs, "review_")
            for name in GoldProvenance._fields
        )


def write_gold_table(path: Path, columns: GoldColumns, rows: Iterable[GoldRow]) -> None:
    """Write gold, in the format of the file's suffix.

    The columns are those of the table, the id if it is not among them, gold under the name that the
    task gives it (or "gold"), and "gold_by", "gold_at", "gold_how", "gold_comment" and
    "gold_selection".

    Raises UsageError if the format is not known.
    """
    described = [
        *map(Column, columns.inputs),
        *(Column(name, "text") for name in columns.ids),
        _make_gold_column(columns.task, columns.gold),
        *(Column(name, "text") for name in columns.provenance),
    ]
    is_text = path.suffix in _TEXT_FORMATS
    write_answers(path, described, _list_cells(columns, rows, is_text), byte_order_mark=True)


def read_selection(row: Mapping[str, object]) -> GoldSelection | None:
    """How a row of a table of gold was chosen; None if it does not say so."""
    text = (read_cell(row.get(SELECTION_COLUMN)) or "").strip().casefold()
    return GoldSelection(text) if text in tuple(GoldSelection) else None


def find_chosen_rows(rows: Iterable[Mapping[str, object]]) -> dict[int, LeftOut]:
    """The rows of a table of gold that were chosen by their answers, by number from 1."""
    return {
        number: reason
        for number, row in enumerate(rows, 1)
        if (reason := LEFT_OUT_BY_SELECTION.get(read_selection(row) or ""))
    }


def _list_cells(
    columns: GoldColumns, rows: Iterable[GoldRow], is_text: bool
) -> Iterator[Sequence[object]]:
    for row in rows:
        yield [
            *(row.fields.get(name) for name in columns.inputs),
            *(row.record_id for _ in columns.ids),
            _format_value(row.value) if is_text else row.value,
            *row.provenance,
        ]


def _make_gold_column(task: Task, name: str) -> Column:
    schema = get_task_kind(task).answer_schema
    if schema is not None:
        return Column(name, "nested", schema=schema)
    return Column(name, "texts" if task.several else "text")


def _format_value(value: Value) -> object:
    """A value as a cell of text. A blank cell would mean that the row has no gold."""
    return value if isinstance(value, str) else format_json_cell(value)
