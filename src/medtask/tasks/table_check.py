"""What a task finds in a table, without a model: rows to ask, gold, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medtask.display import format_count
from medtask.tasks.cell_counts import (
    CellCounts,
    count_gold_cells,
    describe_input_words,
    select_input_words,
)
from medtask.tasks.dataset_statistics import DatasetStatistics, collect_statistics
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import (
    UnknownGold,
    check_gold,
    read_gold_column,
    read_records,
    require_columns,
    require_extras,
)
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.tables.table import Table
    from medtask.tables.validation import TableCounts


@dataclass(frozen=True, slots=True)
class TableCheck:
    """What `check_table` has found.

    Attributes:
        task: The task.
        gold_task: The task with the form of gold that its column has.
        survey: Counts of the table's cells.
        statistics: Counts of the prompts, with a sample of them.
        gold_cells: Counts of the gold column's cells.
        unknown_gold: Gold values that are not valid answers, by value.
    """

    task: Task
    gold_task: Task
    survey: TableCounts
    statistics: DatasetStatistics
    gold_cells: CellCounts
    unknown_gold: Mapping[str, UnknownGold]

    def list_missing_words(self) -> list[str]:
        """Sentences on words for missing values in the columns of the input."""
        return describe_input_words(select_input_words(self.task, self.survey.missing_words))

    def list_gold_warnings(self) -> Iterator[str]:
        """Sentences on gold that is not a valid answer. They quote the values."""
        kind = get_task_kind(self.task)
        for value, found in self.unknown_gold.items():
            meant = f" - {meaning}" if (meaning := found.describe_meaning()) else ""
            yield (
                f"{kind.describe_invalid_gold(value)}: {format_count(found.count, 'row')}, the "
                f"first is row {found.first_row:,}{meant}"
            )

    def list_warnings(self) -> list[str]:
        """Warnings of the task, of its gold and of rows that may not be records."""
        return [
            *self.task.warnings,
            *self.list_gold_warnings(),
            *self.survey.describe_suspects(),
        ]

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values, and the warnings, which quote gold values."""
        statistics = self.statistics
        faults = statistics.faults_by_status
        return {
            "rows": statistics.rows,
            "prompts": statistics.prompt_count,
            "distinct_prompts": statistics.count_distinct_prompts(),
            "is_estimated": statistics.is_sampled,
            "cannot_be_asked": {
                status.value: statistics.scale(rows) for status, rows in sorted(faults.items())
            },
            "gold_column": self.task.gold_column,
            "gold_rows": statistics.gold_rows,
            "notes": [*self.list_missing_words(), *self.gold_cells.describe("gold")],
            "warnings": self.list_warnings(),
        }


def check_table(task: Task, table: Table) -> TableCheck:
    """Read a table as a run of the task would, without a model.

    Raises:
        TaskFaults: The task uses columns that are missing in the table.
        TableError: The table cannot be read, or its ids are blank or repeated.
        MissingExtra: A package that the task needs is not installed.
    """
    # Reading of files loads polars, which commands that only load a task do not need.
    from medtask.tables.read import validate_table

    require_columns(task, table)
    survey = validate_table(table, task.id_column, can_resolve=True)
    require_extras(task, table)
    gold = task.gold_column or ""
    gold_task, form_notes = read_gold_column(task, ((row, row.get(gold)) for row in table))
    statistics = DatasetStatistics(survey.rows, selects_examples=task.pool is not None)
    gold_cells = CellCounts(form_notes=form_notes)
    records = collect_statistics(task, read_records(gold_task, table), statistics)
    if task.gold_column:
        records = count_gold_cells(task, records, task.gold_column, gold_cells)
    unknown = check_gold(gold_task, records).unknown
    return TableCheck(task, gold_task, survey, statistics, gold_cells, unknown)
