"""The same rows in several systems, also if a spreadsheet has changed the ids of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from medtask.display import format_count, format_row_count, quote
from medtask.errors import InputError
from medtask.records import AnsweredRow
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.runs.changed_ids import Cells, match_changed_ids
from medtask.runs.gold_file import MAX_COMPARED_ROWS


def match_system_ids(
    systems: Sequence[AnswerTable], names: Sequence[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """The ids that systems write differently, and notes on ids that only some systems have.

    Ids are compared with those of the first run, or else of the first table.

    Args:
        systems: The systems.
        names: Their names, for notes and errors.

    Returns:
        For each system its changed ids and what the others call them; and the notes.

    Raises:
        InputError: An id may be that of another row, changed by a spreadsheet.
    """
    first = next((place for place, one in enumerate(systems) if one.folder), 0)
    known = systems[first].list_ids()
    changed: list[dict[str, str]] = []
    notes: list[str] = []
    for place, (answers, title) in enumerate(zip(systems, names, strict=True)):
        own = answers.list_ids()
        extra, lacking = set(own) - set(known), set(known) - set(own)
        renamed: dict[str, str] = {}
        if place != first and extra and lacking:
            renamed, found_notes = _match_ids(answers, systems[first], (title, names[first]))
            notes += [f"{title}: {note}" for note in found_notes]
            extra, lacking = extra - renamed.keys(), lacking - set(renamed.values())
            if extra and lacking:
                one = next(name for name in own if name in extra)
                other = next(name for name in known if name in lacking)
                notes.append(
                    f"{format_count(len(extra), 'id')} of {title} (first: {quote(one)}) "
                    f"{'are' if len(extra) != 1 else 'is'} not in {names[first]}, which has "
                    f"{format_row_count(len(lacking))} that {title} lacks (first: {quote(other)})"
                )
        changed.append(renamed)
    return changed, notes


def rename_rows(answers: AnswerTable, names: Mapping[str, str]) -> Iterator[AnsweredRow]:
    """The rows of a system, with the ids that other systems have."""
    for row in answers.rows():
        name = names.get(row.answer.record_id)
        yield row if name is None else row._replace(answer=replace(row.answer, record_id=name))


def _match_ids(
    answers: AnswerTable, reference: AnswerTable, names: tuple[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The changed ids of a system with those of the reference, and notes."""
    own, known = _list_cells(answers), _list_cells(reference)
    matched = match_changed_ids(own, dict(known))
    if matched.unclear:
        one, other = matched.unclear
        raise InputError(
            f"the id {quote(one)} of {names[0]} may be {quote(other)} of {names[1]}, changed by a "
            "spreadsheet: their texts differ, or several ids fit",
            fix="restore the ids, or compare answers to the same table",
        )
    pairs = zip((name for name, _ in own), matched.names, strict=True)
    renamed = {name: found for name, found in pairs if found is not None and found != name}
    return renamed, matched.notes


def _list_cells(answers: AnswerTable) -> list[tuple[str, Cells]]:
    """Ids and the cells of the input; without cells for long tables."""
    ids = answers.list_ids()
    hidden = {answers.task.id_column, answers.task.gold_column, *GOLD_COLUMN_NAMES}
    columns = {
        name: field
        for name, field in answers.source_columns.items()
        if name not in hidden and len(ids) <= MAX_COMPARED_ROWS
    }
    return [
        (one, {field: cells.get(name) for name, field in columns.items()})
        for one, cells in zip(ids, answers.table.rows(), strict=True)
    ]
