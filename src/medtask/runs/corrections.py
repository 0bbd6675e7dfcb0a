"""Corrections that people wrote into review.csv, an audit sample or another table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medtask.display import format_columns, format_count, format_path, quote
from medtask.errors import InputError, TableError
from medtask.records import AnsweredRow, Value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.runs.audit_labels import (
    NONE_COLUMN,
    LabelledRow,
    describe_unknown_labels,
    format_choices,
    is_marked,
    read_truth,
)
from medtask.runs.audit_sample import PLAN_FILE
from medtask.runs.gold_file import find_id_column, match_ids
from medtask.runs.gold_table import SELECTION_COLUMN, GoldProvenance, GoldSelection, read_selection
from medtask.runs.output_columns import CORRECTED_COLUMN
from medtask.tables.cell_values import is_missing, read_cell, read_key, read_present_cell
from medtask.tables.read import read_table, validate_table
from medtask.tables.read_options import ReadOptions
from medtask.tables.table import Table

_CONFIRMATION = "ok"  # in the column of corrections: the answer is right


class Correction(NamedTuple):
    """What a person wrote for a row: its gold, and whether this is the model's answer."""

    value: Value
    confirms: bool
    provenance: GoldProvenance


@dataclass(frozen=True, slots=True)
class Corrections:
    """The corrections of a file.

    Attributes:
        path: The file.
        by_id: The corrections by the id of the row.
        notes: What the user should know.
    """

    path: Path
    by_id: Mapping[str, Correction]
    notes: tuple[str, ...]


def read_corrections(
    answers: AnswerTable,
    path: Path,
    options: ReadOptions,
    selection: GoldSelection | None = None,
    at: str = "",
) -> Corrections:
    """Read the corrections of a file; rows with a blank cell have none.

    Args:
        answers: The answers that were corrected.
        path: The file, with the column "corrected" or one of gold.
        options: How the file is read.
        selection: How its rows were chosen; by default as the file says.
        at: The time of the corrections, for rows that do not say it.

    Raises:
        TableError: The file cannot be read, or its rows are not among the answers.
        InputError: A correction is not a valid answer; all of them are named.
    """
    table = read_table(path, options)
    column = _find_column(answers, table, path)
    id_column = find_id_column(answers, table, column)
    validate_table(table, id_column)
    matched = match_ids(answers, table, id_column, column)
    written = {
        name: labelled
        for name, labelled in zip(matched.names, _read_rows(table, id_column, column), strict=True)
        if name is not None and labelled.is_labelled
    }
    lost = sum(
        name is None and labelled.is_labelled
        for name, labelled in zip(matched.names, _read_rows(table, id_column, column), strict=True)
    )
    if lost and not written:
        raise TableError(
            f"none of the {format_count(lost, 'corrected row')} of {format_path(path)} is among "
            "the answers",
            fix="name the run that the file was written from",
        )
    reader = _CorrectionReader(
        answers, path, selection or _guess_selection(table, path, column), at
    )
    found = reader.read(written)
    notes = [*table.guess_notes, *(f"{format_path(path)}: {note}" for note in matched.notes)]
    if lost:
        notes.append(
            f"{format_path(path)}: {format_count(lost, 'corrected row')} not among the answers"
        )
    return Corrections(path, found, (*notes, *reader.notes))


@dataclass(slots=True)
class _CorrectionReader:
    """Reads corrections as gold values of the task."""

    answers: AnswerTable
    path: Path
    selection: GoldSelection
    at: str
    notes: tuple[str, ...] = ()

    def read(self, written: Mapping[str, LabelledRow]) -> dict[str, Correction]:
        found: dict[str, Correction] = {}
        invalid: dict[int, object] = {}
        normalized: dict[str, str] = {}
        for row in self.answers.rows():
            labelled = written.get(row.answer.record_id)
            if labelled is None:
                continue
            value = self._read_value(row, labelled)
            if value is None:
                if not is_missing(labelled.cell):
                    invalid[labelled.number] = labelled.cell
                continue
            text = read_cell(labelled.cell)
            if text is not None and isinstance(value, str) and text != value:
                normalized |= {text: value} if text.casefold() == value.casefold() else {}
            confirms = value == row.answer.value
            found[row.answer.record_id] = Correction(value, confirms, self._describe(labelled))
        if invalid:
            raise InputError(
                f"{format_path(self.path)} has corrections that are not answers of the task: "
                f"{describe_unknown_labels(self.answers.task, invalid)}",
                fix=f'{format_choices(self.answers.task)}; "{_CONFIRMATION}" confirms the answer',
            )
        shown = [f"{quote(text)} is {quote(name)}" for text, name in normalized.items()]
        if shown:
            self.notes = (f"{format_path(self.path)}: {', '.join(shown[:5])}",)
        return found

    def _read_value(self, row: AnsweredRow, labelled: LabelledRow) -> Value | None:
        value = read_truth(self.answers.task, row.fields, labelled)
        text = (read_cell(labelled.cell) or "").strip().casefold()
        if text == _CONFIRMATION and (value is None or self.answers.task.kind_spec.generated):
            return row.answer.value
        return value

    def _describe(self, labelled: LabelledRow) -> GoldProvenance:
        cells = labelled.cells
        by, at, how, comment = (
            read_present_cell(cells.get(f"gold_{name}")) or ""
            for name in GoldProvenance._fields[:4]
        )
        # In a table of gold, a row without them has the gold of the run's table.
        is_copy = SELECTION_COLUMN in cells
        return GoldProvenance(
            by,
            at or ("" if is_copy else self.at),
            how or ("" if is_copy else f"written in {self.path.name}"),
            comment,
            read_selection(cells) or self.selection,
        )


def _find_column(answers: AnswerTable, table: Table, path: Path) -> str:
    """The column of corrections. Raises InputError if there is none."""
    # A table of answers can have a column of gold, and the answers are called "answer".
    is_answers = "status" in table.columns
    gold_names = () if is_answers else (answers.task.gold_column or "", *GOLD_COLUMN_NAMES)
    names: tuple[str, ...] = (CORRECTED_COLUMN, *gold_names)
    column = next((name for name in names if name in table.columns), None)
    if column is None:
        raise InputError(
            f"{format_path(path)} has no column {quote(CORRECTED_COLUMN)} for corrections",
            fix=(
                f"add it, and write the right answers there: the file has "
                f"{format_columns(table.columns)}"
            ),
        )
    return column


def _read_rows(table: Table, id_column: str, column: str) -> Iterator[LabelledRow]:
    for number, row in enumerate(table.rows(), 1):
        none_applies = is_marked(row.get(NONE_COLUMN))
        yield LabelledRow(number, read_key(row[id_column]) or "", row[column], none_applies, row)


def _guess_selection(table: Table, path: Path, column: str) -> GoldSelection:
    """How the rows of a file were chosen, if its rows do not say it."""
    if (path.parent / PLAN_FILE).exists() or NONE_COLUMN in table.columns:
        return GoldSelection.AUDIT
    is_plain = column != CORRECTED_COLUMN and "status" not in table.columns
    return GoldSelection.RANDOM if is_plain else GoldSelection.REVIEW
