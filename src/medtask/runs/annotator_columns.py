"""Columns with the answers of two human annotators, compared with each other and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medtask.display import format_columns, quote
from medtask.errors import UsageError
from medtask.records import AnsweredRow, Value, comparable_value
from medtask.runs.answer_table import AnswerTable
from medtask.tasks.rows import read_gold, read_gold_column
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.comparison.annotators import AnnotatorAgreement


def compare_annotator_columns(
    answers: AnswerTable, columns: tuple[str, str], seed: int
) -> AnnotatorAgreement | None:
    """Compare two columns of the table with each other and with the answers.

    Returns None if no row has an answer of both. Raises UsageError if there is no such column.
    """
    from medtask.evaluation.comparison.annotators import AnnotatedRows, compare_annotators

    if unknown := [
        name for name in columns if answers.find_column_name(name) not in answers.table.columns
    ]:
        fix = (
            "name two columns, as in --readers FIRST,SECOND: it has "
            f"{format_columns(answers.table.columns)}"
        )
        raise UsageError(
            f"{answers.table.source} has no column {quote(unknown[0])} for an annotator", fix=fix
        )
    task, rows = answers.task, [row for row in answers.rows() if row.answer_counts]
    first, second = (_read_annotations(task, rows, name) for name in columns)
    annotated = AnnotatedRows(
        first,
        second,
        [comparable_value(row.answer.status, row.answer.value, task.abstain_name) for row in rows],
        groups=[row.group for row in rows] if task.group_column else (),
        ids=[row.answer.record_id for row in rows],
        rows=[row.row for row in rows],
        texts=[row.text for row in rows],
    )
    return compare_annotators(
        annotated,
        names=columns,
        kind=task.kind,
        labels=[label.name for label in task.candidates],
        seed=seed,
    )


def _read_annotations(task: Task, rows: Sequence[AnsweredRow], column: str) -> list[Value | None]:
    task, _ = read_gold_column(task, ((row.fields, row.fields.get(column)) for row in rows))
    return [read_gold(task, row.fields, row.fields.get(column)) for row in rows]
