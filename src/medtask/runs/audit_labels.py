"""Labels that a person wrote for the rows of an audit sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medtask.display import format_columns, quote
from medtask.errors import InputError
from medtask.records import AnsweredRow, Value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.tables.cell_values import is_missing, read_cell, read_key, read_present_cell
from medtask.tables.formula_escapes import unescape_formula
from medtask.tables.read import read_table
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Task

LABEL_COLUMN = "gold"  # the column that a person fills in
NONE_COLUMN = "none_applies"  # a mark in it says that no label applies
_NO_MARK = frozenset(("no", "n", "false", "0"))
_MAX_LISTED = 10


class LabelledRow(NamedTuple):
    """A labelled row of a sample: its number, the cell of labels, and whether no label applies."""

    number: int
    cell: object
    none_applies: bool


def is_marked(cell: object) -> bool:
    text = read_present_cell(cell)
    return text is not None and text.casefold() not in _NO_MARK


def read_labels(path: Path, *, none_is_word: bool) -> dict[str, LabelledRow]:
    """The labelled rows by id.

    Raises InputError if columns are missing, or a row has both a label and the mark for none.
    """
    table = read_table(path)
    names = [name for name in GOLD_COLUMN_NAMES if name in table.columns]
    if "id" not in table.columns or not names:
        fix = f"it has {format_columns(table.columns)}"
        raise InputError(f"{path} needs the columns id and {LABEL_COLUMN}", fix=fix)
    found: dict[str, LabelledRow] = {}
    for number, row in enumerate(table.rows(), 1):
        name, cell, none_applies = (
            read_key(row["id"]),
            row[names[0]],
            is_marked(row.get(NONE_COLUMN)),
        )
        if name is None or (read_cell(cell) is None and not none_applies):
            continue
        if none_applies and read_cell(cell) is not None:
            raise InputError(
                f"{path} has a label and a mark in {NONE_COLUMN} in row {number:,}",
                fix="leave one of the two cells blank",
            )
        if name in found:
            raise InputError(
                f"{path} labels the id of row {found[name].number:,} again in row {number:,}",
                fix="leave one of the two rows out",
            )
        is_none = none_applies or (none_is_word and str(cell).strip().casefold() == "none")
        found[name] = LabelledRow(number, cell, is_none)
    return found


def match_labels(
    answers: AnswerTable,
    sampled: Mapping[int, int],
    labels_by_id: Mapping[str, LabelledRow],
    source: Path,
) -> tuple[dict[int, Value], dict[int, AnsweredRow]]:
    """Gold values and rows by their index in ``sampled`` (by row number).

    Raises InputError for unknown ids and labels.
    """
    rows = {sampled[row.row]: row for row in answers.rows() if row.row in sampled}
    place = {row.answer.record_id: at for at, row in rows.items()}
    truths: dict[int, Value] = {}
    unknown_ids, unknown_labels = [], []
    for name, labelled in labels_by_id.items():
        at = place.get(name, place.get(unescape_formula(name)))
        if at is None:
            unknown_ids.append(labelled.number)
            continue
        truth = _read_truth(answers.task, rows[at].fields, labelled)
        if truth is None and not is_missing(labelled.cell):
            unknown_labels.append(labelled.number)
        elif truth is not None:
            truths[at] = truth
    if unknown_ids:
        fix = "label the rows of the sample, and no others"
        raise InputError(
            f"{source} has ids that are not in the sample: {_format_rows(unknown_ids)}", fix=fix
        )
    if unknown_labels:
        raise InputError(
            f"{source} has labels that the task does not know: {_format_rows(unknown_labels)}",
            fix=_format_choices(answers.task),
        )
    return truths, rows


def _read_truth(task: Task, fields: Mapping[str, object], labelled: LabelledRow) -> Value | None:
    """The labels of a row as a gold value of the task; None if they are not valid."""
    cell = labelled.cell
    truth = read_gold(task, fields, cell) if read_cell(cell) is not None else None
    if truth is not None and not find_invalid_gold(task, fields, truth):
        return truth
    # A label of the task comes first: it can be called "none".
    return () if labelled.none_applies and task.several else None


def _format_rows(numbers: Sequence[int]) -> str:
    """``rows 2, 5 and 9``; the header is not counted."""
    shown = ", ".join(f"{number:,}" for number in sorted(numbers)[:_MAX_LISTED])
    return f"row{'s' * (len(numbers) != 1)} {shown}" + (
        f" and {len(numbers) - _MAX_LISTED:,} more" if len(numbers) > _MAX_LISTED else ""
    )


def _format_choices(task: Task) -> str:
    if task.kind_spec.has_options:
        return "write the letter of one of the row's own options"
    names: Iterable[str] = (label.name for label in task.candidates)
    several = (
        f'; several with ";" between them; if none applies, an x in the column {NONE_COLUMN}'
        if task.several
        else ""
    )
    return f"write one of {', '.join(map(quote, names))}{several}"
