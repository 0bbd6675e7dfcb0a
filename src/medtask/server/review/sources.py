"""The rows that a queue is made from: those of a run, or those of a table without answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medtask.records import Answer, AnsweredRow, Fault, Status
from medtask.runs.open_answers import open_answers
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records, require_columns
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class QueueSource:
    """The rows that a queue is made from.

    Attributes:
        name: What they are rows of, such as "run 3".
        task: The task; it names columns as ``columns`` does.
        columns: The columns of the input table.
        rows: The rows, with the model's answers if there are some.
    """

    name: str
    task: Task
    columns: Sequence[str]
    rows: Iterable[AnsweredRow]


def open_run_source(folder: Path, name: str) -> QueueSource:
    """The rows of a run, with the names of columns that its table had.

    Raises:
        InputError: The run has no answers.
    """
    answers = open_answers(folder)
    original = answers.renamed_columns
    task = answers.task

    def restore(column: str | None) -> str | None:
        return None if column is None else original.get(column, column)

    restored = replace(
        task,
        id_column=restore(task.id_column),
        gold_column=restore(task.gold_column),
        group_column=restore(task.group_column),
    )
    return QueueSource(name, restored, tuple(answers.source_columns.values()), answers.rows())


def open_table_source(task: Task, table: Table, name: str) -> QueueSource:
    """The rows of a table that no model has answered.

    Raises:
        TaskFaults: The table does not have the columns of the task.
    """
    require_columns(task, table)
    return QueueSource(name, task, table.columns, _read_rows(task, table))


def _read_rows(task: Task, table: Table) -> Iterator[AnsweredRow]:
    for number, record in enumerate(read_records(task, table), 1):
        prompt = build_prompt(task, record)
        row = AnsweredRow(
            number,
            Answer(record.id, Status.REVIEW),
            gold=record.gold,
            group=record.group,
            fields=record.fields,
        )
        if isinstance(prompt, Fault):
            yield row._replace(answer=Answer(record.id, prompt.status))
        else:
            yield row._replace(text=prompt.text, options=prompt.options)
