"""One pass over a table before anything is computed: how many rows, and does every row have an id
of its own.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from medtask.display import format_first, format_name, quote, quote_names, suggest
from medtask.errors import TableError
from medtask.tables.cell_values import is_blank, read_cell
from medtask.tables.table import Table
from medtask.tables.table_part import ReadStats

_MAX_LISTED = 20
_MAX_REPEATED_HASHES = 1000


@dataclass(frozen=True, slots=True)
class TableCounts:
    """``empty_rows``: rows in which every cell is blank. ``blank_lines``: lines that are no
    rows and were left out.
    """

    rows: int
    empty_rows: int
    blank_lines: int


def validate_table(table: Table, id_column: str | None = None) -> TableCounts:
    """Counts the rows and makes sure that ids are there and unique (compared as stripped text: "1"
    is 1).

    Needs at most 20 bytes of memory a row. Raises TableError that names the first 20 missing and
    repeated ids.
    """
    if id_column is not None and id_column not in table.columns:
        fix = suggest(id_column, table.columns) or f"it has {quote_names(table.columns)}"
        raise TableError(f"{format_name(table.source)} has no column {quote(id_column)}", fix=fix)
    stats = ReadStats()
    rows = empty = missing = 0
    missing_rows: list[str] = []
    hashes = array("q")
    for rows, row in enumerate(table.rows(stats), 1):
        if all(map(is_blank, row.values())):
            empty += 1
        if id_column is None:
            continue
        if text := read_cell(row[id_column]):
            hashes.append(hash(text))
        else:
            missing += 1
            if missing <= _MAX_LISTED + 1:
                missing_rows.append(str(rows))
    faults = []
    if missing:
        shown = format_first(missing_rows, _MAX_LISTED)
        faults.append(
            f"{missing:,} rows have no id (rows {shown})"
            if missing > 1
            else f"1 row has no id (row {shown})"
        )
    if id_column is not None and (repeated := _find_repeated(table, id_column, hashes)):
        faults.append(repeated)
    if faults:
        problem = f"{format_name(table.source)}, id column {quote(id_column)}: {'; '.join(faults)}"
        raise TableError(
            problem,
            fix=(
                "give every row an id of its own, or leave `id` out of the task: rows are then "
                "numbered"
            ),
        )
    return TableCounts(rows, empty, stats.blank_lines)


def _find_repeated(table: Table, id_column: str, hashes: array[int]) -> str:
    """The ids that more than one row has, in words; "" if there are none. A second pass tells them
    from equal hashes.
    """
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
        text = read_cell(row[id_column])
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
