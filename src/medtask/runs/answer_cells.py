"""Parsing of answers, statuses and probabilities in table cells."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medtask.display import quote
from medtask.errors import TableError
from medtask.records import Answer, Status
from medtask.runs.output_columns import ACCEPTED
from medtask.tables.cell_values import read_cell, read_key, read_present_cell
from medtask.tables.missing import MissingText
from medtask.tasks.containers import parse_container
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.kinds.label import get_label_names
from medtask.tasks.task import Task

PROBABILITY_PREFIX = "p:"  # a column p:LABEL holds a label's probability
# Statuses of rows that may have an answer
_STATUSES_WITH_ANSWER = (None, Status.OK, Status.REVIEW, Status.TRUNCATED)


def read_id(task: Task, cells: Mapping[str, object], number: int) -> str:
    return str(number) if task.id_column is None else read_key(cells.get(task.id_column)) or ""


def get_answer_cell(cells: Mapping[str, object]) -> object:
    """The cell of the answer. In a row with a status, a word for a missing value is an answer."""
    cell = cells.get("answer")
    has_status = read_present_cell(cells.get("status")) is not None
    return str(cell) if has_status and isinstance(cell, MissingText) else cell


def read_answer(
    task: Task, name: str, cells: Mapping[str, object], fields: Mapping[str, object], number: int
) -> Answer:
    cell = get_answer_cell(cells)
    status = _read_status(cells.get("status"), number)
    # No label applies: this is a valid answer.
    is_empty_set = task.several and (
        cell == [] or (read_cell(cell) is None and status in (Status.OK, Status.REVIEW))
    )
    # In rows with a status such as "failed" or "too long" the answer cell is ignored.
    value = (
        None
        if status not in _STATUSES_WITH_ANSWER
        else ()
        if is_empty_set
        else get_task_kind(task).read_gold(fields, cell)
    )
    probabilities = _rename_labels(task, read_probabilities(cells, "probabilities", number))
    confidence = (
        read_probability(cells.get("confidence"), "confidence", number)
        if value is not None
        else None
    )
    if confidence is None and isinstance(value, str) and probabilities:
        confidence = probabilities.get(value)
    reason = read_present_cell(cells.get("reason"))
    if status in (None, Status.OK, Status.REVIEW) and value is None:
        status, reason = Status.FAILED, reason or "the table has no answer in this row"
    written = read_cell(cells.get("written"))
    passed = read_present_cell(cells.get("pass")) or "first"
    raw = _rename_labels(task, read_probabilities(cells, "uncalibrated", number))
    return Answer(
        name,
        status or Status.OK,
        value,
        confidence,
        probabilities,
        text=written,
        reason=reason,
        pass_name=passed,
        uncalibrated=raw,
    )


def _rename_labels(task: Task, probabilities: dict[str, float] | None) -> dict[str, float] | None:
    """Probabilities by the task's own spelling of its labels."""
    if probabilities is None or not task.labels:
        return probabilities
    names = get_label_names(task)
    found = {names.find(name) or name: share for name, share in probabilities.items()}
    return found if len(found) == len(probabilities) else probabilities


def _read_status(cell: object, number: int) -> Status | None:
    text = read_present_cell(cell)
    if text is None:
        return None
    if text.lower() == ACCEPTED:
        return Status.OK
    try:
        return Status(text.lower())
    except ValueError:
        fix = f"write one of {', '.join(Status)}, or leave the column out"
        raise TableError(f"row {number}: the status is not valid", fix=fix) from None


def read_probability(cell: object, column: str, row: int) -> float | None:
    """The probability in a cell, also with a decimal comma, as spreadsheets save it; None if blank.

    Raises TableError if it is not valid.
    """
    text = read_present_cell(cell)
    if text is None:
        return None
    try:
        probability = float(text.replace(",", ".", 1))
    except ValueError:
        probability = math.nan
    if not 0 <= probability <= 1 + 1e-6:
        fix = "write probabilities as numbers from 0 to 1, or leave the cell blank"
        raise TableError(f"row {row}: {quote(column)} is not a probability", fix=fix)
    return min(1.0, probability)


def read_probabilities(
    cells: Mapping[str, object], column: str, row: int
) -> dict[str, float] | None:
    """Probabilities by outcome, from a column of mappings or columns named p:LABEL.

    Returns None if the row has no probabilities.
    """
    cell_value = cells.get(column)
    if isinstance(cell_value, str):
        cell_value = parse_container(cell_value)
    if not isinstance(cell_value, Mapping):
        if column != "probabilities":
            return None
        cell_value = {
            name.removeprefix(PROBABILITY_PREFIX): cell
            for name, cell in cells.items()
            if name.startswith(PROBABILITY_PREFIX)
        }
    found = {
        str(name): read_probability(cell, f"{PROBABILITY_PREFIX}{name}", row)
        for name, cell in cell_value.items()
    }
    return {name: share for name, share in found.items() if share is not None} or None
