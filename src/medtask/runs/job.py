"""What one session of a run is about: everything that can be known before it costs anything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from medtask.data.read import survey
from medtask.data.table import Table
from medtask.data.write import FORMATS
from medtask.errors import InputError, TableError, TaskFaults, UsageError
from medtask.records import Record
from medtask.runs.finalise import rename_columns
from medtask.runs.work import Cost, Progress
from medtask.tasks.gold import find_strange
from medtask.tasks.rows import check_columns, read_records, unknown_gold
from medtask.tasks.task import AnyLabels, Task


@dataclass(slots=True)
class Job:
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
    progress: Progress
    notes: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    started: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.on_note(text)

    def records(self) -> Iterator[Record]:
        return islice(read_records(self.task, self.table, gold_column=self.gold_column), self.rows)

    def seconds(self) -> float:
        return time.monotonic() - self.started


def settle_job(
    task: Task,
    table: Table,
    limit: int | None,
    gold_column: str | None,
    formats: Sequence[str],
    max_error_rate: float,
    progress: Progress,
) -> Job:
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
    found = survey(table, task.id_column)
    if not found.rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    rows = min(found.rows, limit or found.rows)
    job = Job(
        task,
        table,
        found.rows,
        rows,
        gold_column or task.gold_column,
        formats,
        max_error_rate,
        progress,
    )
    if found.blank_lines:
        job.note(f"{found.blank_lines:,} blank line(s) of {table.source} are no rows")
    for column, name in rename_columns(task, table.columns).items():
        if column != name:
            job.note(f'the table has a column "{column}": among the answers it is called "{name}"')
    if job.gold_column is not None:
        _check_gold(job)
    elif isinstance(task.form, AnyLabels) and task.form.fit:
        fix = "name the column with --gold, or under `gold:` in the task"
        raise InputError(
            "thresholds are to be fitted on gold, and no column is named that holds any", fix=fix
        )
    return job


def _check_gold(job: Job) -> None:
    """InputError where no gold value is an answer that the task could give; a note where some are
    not.
    """
    seen: Counter[bool] = Counter()

    def count(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if record.gold is not None:
                seen[not find_strange(job.task, record.fields, record.gold)] += 1
            yield record

    strange = unknown_gold(job.task, count(job.records()))
    if not strange:
        return
    what = {"choice": "option of its row", "fields": "value of the schema"}.get(
        job.task.kind, "label of the task"
    )
    # Not the values themselves: with the wrong column they would be somebody's words.
    places = [
        f"row {one.first_row:,}" + (f', perhaps "{one.meant}"' if one.meant else "")
        for one in strange.values()
    ]
    shown = f"{'; '.join(places[:5])}{'; ...' if len(places) > 5 else ''}"
    if not seen[True]:
        fix = f"name the right column with --gold, or write every {what} as it stands there"
        raise InputError(
            f'no value of the gold column "{job.gold_column}" is a {what} ({shown})', fix=fix
        )
    rows = f"{seen[False]:,} rows, which are" if seen[False] > 1 else "1 row, which is"
    job.note(f'gold in the column "{job.gold_column}" is no {what} in {rows} not graded ({shown})')
