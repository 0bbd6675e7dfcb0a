"""Rows that may not be records: totals and notes at the end of a table, and repeated headers."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from medtask.display import format_list, quote
from medtask.tables.cell_values import read_cell

_MAX_TRAILING = 3
_MAX_HEADERS = 5
_MIN_COLUMNS_FOR_NOTES = 3
_TOTAL = re.compile(
    r"""(?:
        (?:grand\s+|sub-?\s*)?totals? | sums? | averages? | mean | count | median | rows | records
        | totalt? | totales | sum[ae] | somme | suma | summe | gesamt(?:summe)? | insgesamt
        | totale | totaal | som | razem | ogółem | średnia | celkem | součet | yhteensä
        | gjennomsnitt | antall | antal | anzahl | mittelwert | moyenne | media | promedio
        | итого | всего | сумма | 合计 | 合計 | 总计 | 總計 | n(?=\s*[:=]\s*\d)
    )\s*(?:\([^()]{0,20}\)\s*)?[:=]?\s*[\d.,\s%]*
    (?:rows?|records?|cases?|patients?|entries|rader|linjer|pasienter|Zeilen|Patienten|lignes)?""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(?=[.,\s]*\d)[\d.,\s]+%?")


class SuspectRow(NamedTuple):
    """A row that may not be a record.

    Attributes:
        number: Its number, from 1.
        word: Its word for a total; "" for others, whose text is not shown.
        is_header: Whether it repeats the names of the columns.
    """

    number: int
    word: str = ""
    is_header: bool = False


@dataclass(slots=True)
class SuspectRows:
    """Finds repeated headers, and totals and notes in the last rows, while a table is read."""

    _last: deque[tuple[int, Mapping[str, object]]] = field(
        default_factory=lambda: deque(maxlen=_MAX_TRAILING)
    )
    _single_cells: int = 0
    _headers: list[SuspectRow] = field(default_factory=list)

    def add(self, number: int, row: Mapping[str, object], blanks: int) -> None:
        """Add a row that is not blank; ``blanks`` is the number of its blank cells."""
        self._last.append((number, row))
        self._single_cells += len(row) - blanks == 1
        if len(self._headers) < _MAX_HEADERS and _is_header(row):
            self._headers.append(SuspectRow(number, is_header=True))

    def find(self) -> tuple[SuspectRow, ...]:
        """The first repeated headers, then the totals and notes, in the order of the rows."""
        found: list[SuspectRow] = []
        for number, row in reversed(self._last):
            texts = [text for text in map(read_cell, row.values()) if text is not None]
            word = _find_total(texts)
            is_note = (
                len(texts) == 1
                and len(row) >= _MIN_COLUMNS_FOR_NOTES
                and self._single_cells <= len(found) + 1
            )
            if number == 1 or not (word or is_note):
                break
            found.append(SuspectRow(number, word))
        return (*self._headers, *reversed(found))


def _is_header(row: Mapping[str, object]) -> bool:
    """Whether all cells are the names of their columns, as in two exports that were joined."""
    # A file that was appended to another one can begin with a byte order mark.
    return len(row) > 1 and all(
        isinstance(cell, str) and cell.strip().removeprefix("\ufeff") == column.strip()
        for column, cell in row.items()
    )


def _find_total(texts: Sequence[str]) -> str:
    """The word for a total if all other cells are numbers; "" if the row is not a total."""
    words = [text for text in texts if not _NUMBER.fullmatch(text)]
    return words[0] if len(words) == 1 and _TOTAL.fullmatch(words[0]) else ""


def describe_suspect_rows(rows: Sequence[SuspectRow]) -> str:
    """A sentence on the rows; "" without rows."""
    headers = [f"row {one.number:,}" for one in rows if one.is_header]
    others = [
        f"row {one.number:,}{f' ({quote(one.word)})' if one.word else ''}"
        for one in rows
        if not one.is_header
    ]
    parts = []
    if headers:
        repeat = "repeat" if len(headers) > 1 else "repeats"
        parts.append(f"{format_list(headers)} {repeat} the names of the columns")
    if others:
        parts.append(
            f"{format_list(others)} at the end of the table may be a total or a note, not a record"
        )
    if not parts:
        return ""
    several = len(rows) > 1
    return (
        f"{'; '.join(parts)}: {'they are' if several else 'it is'} read like any other row (delete "
        f"{'them' if several else 'it'} from the table if that is wrong)"
    )
