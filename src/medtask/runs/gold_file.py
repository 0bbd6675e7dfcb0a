"""Gold from a separate file, and the rows of the answers that these ids name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medtask.display import format_columns, format_path, format_suggestion, quote
from medtask.errors import TableError, UsageError
from medtask.records import LeftOut
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable, GoldLocation
from medtask.runs.changed_ids import MatchedIds, match_changed_ids
from medtask.runs.gold_table import SELECTION_COLUMN, find_chosen_rows
from medtask.tables.cell_values import read_key
from medtask.tables.read import read_table, validate_table
from medtask.tables.read_options import ReadOptions
from medtask.tables.table import Table

MAX_COMPARED_ROWS = 200_000  # their texts are loaded to find rows whose ids were changed


def read_gold_file(
    answers: AnswerTable, path: Path, column: str, options: ReadOptions
) -> AnswerTable:
    """The answers with gold from the named column of a file; "" finds the column.

    Raises TableError or UsageError if its rows or its column cannot be found.
    """
    table = read_table(path, options)
    id_column = find_id_column(answers, table, column)
    other_columns = [name for name in table.columns if name != id_column]
    wanted = (
        (column,)
        if column
        else (
            answers.task.gold_column,
            *GOLD_COLUMN_NAMES,
            *other_columns[: len(other_columns) == 1],
        )
    )
    truth = next((name for name in wanted if name in other_columns), None)
    if truth is None:
        fix = f"name its column, as in {path}#COLUMN: it has {format_columns(other_columns)}"
        raise UsageError(f"{path} does not tell which column holds the truth", fix=fix)
    validate_table(table, id_column)
    matched = match_ids(answers, table, id_column, truth)
    cells = (row[truth] for row in table.rows())
    gold_by_id = {
        name: cell for name, cell in zip(matched.names, cells, strict=True) if name is not None
    }
    rows = len(matched.names)
    if rows and not gold_by_id:
        where = (
            f'the column "{answers.task.id_column}"'
            if answers.task.id_column
            else "the numbers of the rows"
        )
        raise TableError(
            f"none of the {rows:,} ids of {path} is among the answers",
            fix=f"the answers' ids are {where}",
        )
    notes = [*table.guess_notes, *(f"{path}: {note}" for note in matched.notes)]
    if id_column not in (answers.task.id_column, "id"):
        notes.append(f'{path}: its ids are in the column "{id_column}"')
    if unknown_ids := rows - len(gold_by_id):
        notes.append(f"{unknown_ids:,} of the {rows:,} ids of {path} are not among the answers")
    gold = GoldLocation(f'{path}, column "{truth}"', by_id=gold_by_id)
    left_out = _leave_out_chosen_rows(answers, table, matched.names)
    return replace(answers, gold=gold, left_out=left_out, notes=(*answers.notes, *notes))


def _leave_out_chosen_rows(
    answers: AnswerTable, table: Table, names: Sequence[str | None]
) -> Mapping[int, LeftOut]:
    """The rows that are left out, and those whose gold is known because of their answers."""
    if SELECTION_COLUMN not in table.columns:
        return answers.left_out
    reasons = {
        names[number - 1]: reason for number, reason in find_chosen_rows(table.rows()).items()
    }
    ids = enumerate(answers.list_ids(), 1)
    chosen = {number: reasons[name] for number, name in ids if name in reasons}
    return {**chosen, **answers.left_out}


def find_id_column(answers: AnswerTable, table: Table, gold_column: str) -> str:
    """The column of ids: by its name, or else the only one with ids of the answers."""
    names = [name for name in (answers.task.id_column, "id") if name is not None]
    if found := next((name for name in names if name in table.columns), None):
        return found
    if answers.task.id_column is not None:
        known: dict[str, Mapping[str, object]] = {name: {} for name in answers.list_ids()}
        fitting = [
            name
            for name in table.columns
            if name != gold_column and _has_ids([row[name] for row in table.rows()], known)
        ]
        if len(fitting) == 1:
            return fitting[0]
    raise make_missing_column_error("ids", names[0], table)


def _has_ids(cells: Sequence[object], known: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether cells are different from each other, and at least half of them are known ids."""
    keys = [key for cell in cells if (key := read_key(cell)) is not None]
    if not keys or len(set(keys)) < len(keys):
        return False
    matched = match_changed_ids([(key, {}) for key in keys], known)
    return 2 * sum(name is not None for name in matched.names) >= len(keys)


def match_ids(answers: AnswerTable, table: Table, id_column: str, gold_column: str) -> MatchedIds:
    """The answers' id of each row of another table, also where a spreadsheet has changed it.

    Numbers of rows are compared with the texts that both tables have.
    """
    known = _find_known_ids(answers, table, id_column)
    numbered = answers.task.id_column is None and id_column not in answers.source_columns
    hidden = (id_column, gold_column, answers.task.gold_column, *GOLD_COLUMN_NAMES)
    shared = [
        name for name in table.columns if name in answers.source_columns and name not in hidden
    ]
    rows: list[tuple[str, Mapping[str, object]]] = [
        (read_key(row[id_column]) or "", {}) for row in table.rows()
    ]
    matched = match_changed_ids(rows, {name: {} for name in known})
    if (None in matched.names or numbered) and len(known) <= MAX_COMPARED_ROWS:
        cells_by_id = {
            name: {column: row[column] for column in shared}
            for name, row in zip(known, answers.table.rows(), strict=True)
        }
        rows = [
            (name, {column: row[column] for column in shared})
            for (name, _), row in zip(rows, table.rows(), strict=True)
        ]
        matched = match_changed_ids(rows, cells_by_id, verified=numbered)
    if numbered and not shared:
        note = "rows were found by their numbers from 1, and no text was there to compare"
        matched = replace(matched, notes=(*matched.notes, note))
    return replace(
        matched, names=tuple(None if name is None else known[name] for name in matched.names)
    )


def _find_known_ids(answers: AnswerTable, table: Table, id_column: str) -> dict[str, str]:
    """The ids of the answers by what another table calls them: by the ids, or a column of ids.

    Rows of a task without an id column are numbered. If their table has the column of ids that the
    other table has, its values are the ids: numbers of rows would be taken for them.
    """
    if answers.task.id_column is not None:
        return {name: name for name in answers.list_ids()}
    if id_column in answers.source_columns:
        validate_table(answers.table, id_column)
        cells = enumerate(answers.table.rows(), 1)
        return {read_key(row[id_column]) or "": str(number) for number, row in cells}
    if any(read_key(row[id_column]) == "0" for row in table.rows()):
        raise TableError(
            f"{format_path(table.source)} has the id 0, but the rows of {answers.name} have no ids "
            "and are numbered from 1",
            fix="number the rows from 1, or name an id column in the task, and run again",
        )
    return {number: number for number in answers.list_ids()}


def make_missing_column_error(what: str, column: str, table: Table) -> TableError:
    """The error that a table has no column for groups, ids or gold."""
    if error := table.explain_missing([column]):
        return error
    message = (
        f"{table.source} has no column {quote(column)} for the "
        f"{what}{format_suggestion(column, table.columns)}"
    )
    way = "name another" if what == "groups" else f"rename the column that holds the {what}"
    return TableError(message, fix=f"{way}: it has {format_columns(table.columns)}")
