"""Validation of a table before a run: number of rows, and unique ids."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from medtask.display import format_count, format_first, format_name, quote, quote_names, suggest
from medtask.errors import TableError
from medtask.tables.cell_values import is_missing, read_key
from medtask.tables.encoding import find_garbled_letter
from medtask.tables.missing import MissingText
from medtask.tables.suspect_rows import SuspectRow, SuspectRows, describe_suspect_rows
from medtask.tables.table import Table
from medtask.tables.table_part import ReadStats
from medtask.tables.write_excel import MAX_CELL_LENGTH, measure_excel_text

_MAX_LISTED = 20
_MAX_REPEATED_HASHES = 1000
_ID_REMEDY = "give every row a unique id, or remove `id` from the task: rows are then numbered"
_REPEATED_REMEDY = (
    ". --on-duplicate suffix adds a number to repeated ids, first leaves such rows out"
)
_SHORTENED_NUMBER = re.compile(r"\d[.,]\d+E\+\d+")


@dataclass(slots=True)
class TableCounts:
    """Counts of one pass over a table.

    Attributes:
        rows: Number of rows.
        empty_rows: Rows in which every cell is blank.
        blank_lines: Skipped lines.
        missing_words: For every column with words for missing values, the number of each word.
        long_cells: Cells with more text than XLSX can hold.
        garbled_cells: Cells with letters that were read in a wrong encoding before.
        garbled_letter: The first of these letters as it is written, and as it was.
        shortened_ids: Ids that a spreadsheet has shortened, as in 1.23457E+11.
        shortened_id: The first of these.
    """

    rows: int = 0
    empty_rows: int = 0
    blank_lines: int = 0
    missing_words: dict[str, Counter[str]] = field(default_factory=dict)
    long_cells: int = 0
    garbled_cells: int = 0
    garbled_letter: tuple[str, str] | None = None
    shortened_ids: int = 0
    shortened_id: str = ""
    _suspects: SuspectRows = field(default_factory=SuspectRows, repr=False, compare=False)

    @property
    def suspect_rows(self) -> tuple[SuspectRow, ...]:
        """Rows that may be totals, notes or repeated headers instead of records."""
        return self._suspects.find()

    def describe_suspects(self) -> list[str]:
        """Sentences on rows that may not be records, shortened ids and garbled letters."""
        notes = self.describe_id_causes()
        if self.garbled_letter:
            wrong, right = map(quote, self.garbled_letter)
            notes.append(
                f"{format_count(self.garbled_cells, 'cell')} with letters that were read in a "
                f"wrong encoding before the table was saved ({wrong} for {right}): export it "
                "again from its source, as UTF-8"
            )
        return notes

    def describe_id_causes(self) -> list[str]:
        """Sentences on what can be the cause of missing and repeated ids."""
        notes = [describe_suspect_rows(self.suspect_rows)] if self.suspect_rows else []
        if self.shortened_ids:
            notes.append(
                f"a spreadsheet has shortened {format_count(self.shortened_ids, 'id')}, such as "
                f"{quote(self.shortened_id)}: export the column again as text"
            )
        return notes

    def add_id(self, text: str) -> None:
        """Count an id."""
        if "E+" in text and _SHORTENED_NUMBER.fullmatch(text):
            self.shortened_ids += 1
            self.shortened_id = self.shortened_id or text

    def add(self, row: Mapping[str, object]) -> None:
        """Count the next row."""
        self.rows += 1
        blanks = _count_plain_blanks(row)
        if blanks is None:
            blanks = self._add_cells(row)
        if blanks == len(row):
            self.empty_rows += 1
        else:
            self._suspects.add(self.rows, row, blanks)

    def _add_cells(self, row: Mapping[str, object]) -> int:
        """Add cells one by one; returns the number of blank ones."""
        blanks = 0
        for column, cell in row.items():
            if not isinstance(cell, str):
                blanks += is_missing(cell)
            elif isinstance(cell, MissingText):
                blanks += 1
                self.missing_words.setdefault(column, Counter())[cell.strip()] += 1
            elif not cell or cell.isspace():
                blanks += 1
            else:
                if len(cell) > MAX_CELL_LENGTH // 2:
                    self.long_cells += measure_excel_text(cell) > MAX_CELL_LENGTH
                if not cell.isascii():
                    garbled = find_garbled_letter(cell)
                    self.garbled_cells += garbled is not None
                    self.garbled_letter = self.garbled_letter or garbled
        return blanks


def _count_plain_blanks(row: Mapping[str, object]) -> int | None:
    """The number of blank cells if all are short ASCII texts that are not missing; else None.

    Most rows are like that, and a loop over their cells takes three times as long.
    """
    cells = row.values()
    try:
        text = "".join(cells)  # type: ignore[arg-type]
    except TypeError:
        return None
    if len(text) > MAX_CELL_LENGTH // 2 or not text.isascii() or MissingText in map(type, cells):
        return None
    return [*map(str.strip, cells)].count("")  # type: ignore[arg-type]


def validate_table(
    table: Table, id_column: str | None = None, *, can_resolve: bool = False
) -> TableCounts:
    """Count the rows and check that ids are present and unique, compared as stripped text.

    Needs at most 20 bytes of memory per row. ``can_resolve``: whether the table has gone through
    `resolve_repeated_ids`, so that the remedy is one of its rules.

    Raises:
        TableError: Ids are missing or repeated; the message names the first 20.
    """
    if id_column is not None and id_column not in table.columns:
        fix = suggest(id_column, table.columns) or f"it has {quote_names(table.columns)}"
        raise TableError(f"{format_name(table.source)} has no column {quote(id_column)}", fix=fix)
    stats, counts = ReadStats(), TableCounts()
    missing = 0
    missing_rows: list[str] = []
    hashes = array("q")
    for row in table.rows(stats):
        counts.add(row)
        if id_column is None:
            continue
        if text := read_key(row[id_column]):
            hashes.append(hash(text))
            counts.add_id(text)
        else:
            missing += 1
            if missing <= _MAX_LISTED + 1:
                missing_rows.append(str(counts.rows))
    counts.blank_lines = stats.blank_lines
    faults = []
    if missing:
        shown = format_first(missing_rows, _MAX_LISTED)
        faults.append(
            f"{missing:,} rows have no id (rows {shown})"
            if missing > 1
            else f"1 row has no id (row {shown})"
        )
    repeated = _find_repeated(table, id_column, hashes) if id_column is not None else ""
    if repeated:
        faults.append(repeated)
    if faults:
        faults += counts.describe_id_causes()
        problem = f"{format_name(table.source)}, id column {quote(id_column)}: {'; '.join(faults)}"
        raise TableError(
            problem,
            fix=_ID_REMEDY + (_REPEATED_REMEDY if repeated and can_resolve else ""),
        )
    return counts


def _find_repeated(table: Table, id_column: str, hashes: array[int]) -> str:
    """A sentence about repeated ids, or "". A second pass excludes hash collisions."""
    import numpy as np

    hashed = np.frombuffer(hashes, dtype=np.int64)
    ordered = np.sort(hashed)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return ""
    extra = int(equal.sum())
    repeated = np.flatnonzero(np.isin(hashed, np.unique(ordered[1:][equal])))
    _, first = np.unique(hashed[repeated], return_index=True)
    suspects = set(hashed[repeated[np.sort(first)[:_MAX_REPEATED_HASHES]]].tolist())
    places: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows(), 1):
        text = read_key(row[id_column])
        if text and hash(text) in suspects and len(places.setdefault(text, [])) < 4:
            places[text].append(number)
    found = {text: rows for text, rows in places.items() if len(rows) > 1}
    if not found:
        return ""
    shown = [
        f"{quote(text)} (rows {format_first([str(row) for row in rows], 3)})"
        for text, rows in found.items()
    ]
    return (
        f"{extra:,} row{'s repeat' if extra > 1 else ' repeats'} the id of an earlier row: "
        f"{format_first(shown, _MAX_LISTED)}"
    )
