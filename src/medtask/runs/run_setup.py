"""What one session of a run is about: everything that can be known before it costs anything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from medtask.errors import InputError, TableError, TaskFaults, UsageError
from medtask.records import Record
from medtask.runs.execution import RunObserver, SessionCost
from medtask.runs.outputs import rename_columns
from medtask.tables.read import validate_table
from medtask.tables.table import Table
from medtask.tables.write import FORMATS
from medtask.tasks.gold_values import find_invalid_gold
from medtask.tasks.rows import check_columns, find_unknown_gold, read_records
from medtask.tasks.task import MultiLabel, Task


@dataclass(slots=True)
class RunSetup:
    """One session's facts, settled before anything is asked. ``rows`` of the table's ``table_rows``
    are to be answered.
    """

    task: Task
    table: Table
    table_rows: int
    rows: int
    gold_column: str | None
    formats: Sequence[str]
    max_error_rate: float
    progress: RunObserver
    notes: list[str] = field(default_factory=list)
    cost: SessionCost = field(default_factory=SessionCost)
    started: float = field(default_factory=time.monotonic)

    def add_note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.on_note(text)

    def iter_records(self) -> Iterator[Record]:
        return islice(read_records(self.task, self.table, gold_column=self.gold_column), self.rows)

    def get_elapsed_s(self) -> float:
        return time.monotonic() - self.started


def prepare_run(
    task: Task,
    table: Table,
    limit: int | None,
    gold_column: str | None,
    formats: Sequence[str],
    max_error_rate: float,
    progress: RunObserver,
) -> RunSetup:
    """Find everything that is wrong with what was asked for, before it costs anything."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves no row", fix="ask for one row or more")
    if unknown := [name for name in formats if f".{name}" not in FORMATS]:
        known = ", ".join(suffix.removeprefix(".") for suffix in FORMATS)
        raise UsageError(
            f"there is no format {unknown[0]!r} for answers", fix=f"choose from {known}"
        )
    if faults := check_columns(task, table.columns, gold_column=gold_column):
        raise TaskFaults(str(task.source or task.name), faults)
    table_survey = validate_table(table, task.id_column)
    if not table_survey.rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    rows = min(table_survey.rows, limit or table_survey.rows)
    setup = RunSetup(
        task,
        table,
        table_survey.rows,
        rows,
        gold_column or task.gold_column,
        formats,
        max_error_rate,
        progress,
    )
    if table_survey.blank_lines:
        setup.add_note(f"{table_survey.blank_lines:,} blank line(s) of {table.source} are no rows")
    for column, name in rename_columns(task, table.columns).items():
        if column != name:
            setup.add_note(
                f'the table has a column "{column}": among the answers it is called "{name}"'
            )
    if setup.gold_column is not None:
        _check_gold(setup)
    elif isinstance(task.answer_spec, MultiLabel) and task.answer_spec.fit:
        fix = "name the column with --gold, or under `gold:` in the task"
        raise InputError(
            "thresholds are to be fitted on gold, and no column is named that holds any", fix=fix
        )
    return setup


def _check_gold(setup: RunSetup) -> None:
    """InputError where no gold value is an answer that the task could give; a note where some are
    not.
    """
    known_counts: Counter[bool] = Counter()

    def count(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if record.gold is not None:
                known_counts[not find_invalid_gold(setup.task, record.fields, record.gold)] += 1
            yield record

    unknown_values = find_unknown_gold(setup.task, count(setup.iter_records()))
    if not unknown_values:
        return
    value_name = {"choice": "option of its row", "fields": "value of the schema"}.get(
        setup.task.kind, "label of the task"
    )
    # Not the values themselves: with the wrong column they would be somebody's words.
    places = [
        f"row {one.first_row:,}" + (f', perhaps "{one.suggestion}"' if one.suggestion else "")
        for one in unknown_values.values()
    ]
    shown = f"{'; '.join(places[:5])}{'; ...' if len(places) > 5 else ''}"
    if not known_counts[True]:
        fix = f"name the right column with --gold, or write every {value_name} as it stands there"
        raise InputError(
            f'no value of the gold column "{setup.gold_column}" is a {value_name} ({shown})',
            fix=fix,
        )
    rows = (
        f"{known_counts[False]:,} rows, which are" if known_counts[False] > 1 else "1 row, which is"
    )
    setup.add_note(
        f'gold in the column "{setup.gold_column}" is no {value_name} in {rows} not graded '
        f"({shown})"
    )
