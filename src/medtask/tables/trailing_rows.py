"""Rows at the end of a table that may be totals or notes instead of records."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from medtask.display import format_list, quote
from medtask.tables.cell_values import read_cell

_MAX_TRAILING = 3
_MIN_COLUMNS_FOR_NOTES = 3
_TOTAL = re.compile(
    r"""(?:
        (?:grand\s+|sub-?\s*)?totals? | sums? | averages? | mean | count | median | rows | records
        | totalt? | totales | sum[ae] | somme | suma | summe | gesamt(?:summe)? | insgesamt
        | totale | totaal | som | razem | ogółem | średnia | celkem | součet | yhteensä
        | gjennomsnitt | antall | antal | anzahl | mittelwert | moyenne | media | promedio
        | итого | всего | сумма | 合计 | 合計 | 总计 | 總計 | n(?=\s*[:=]\s*\d)
    )\s*(?:\([^()]{0,20}\)\s*)?[:=]?\s*[\d.,\s%]*""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?[\d.,\s]*\d[\d.,\s]*%?")


class TrailingRow(NamedTuple):
    """A row at the end of a table that may not be a record: its number, and its word for a total.

    ``word`` is "" for a possible note, whose text is not shown.
    """

    number: int
    word: str


@dataclass(slots=True)
class TrailingRows:
    """Finds totals and notes in the last rows of a table while it is read."""

    _last: deque[tuple[int, Mapping[str, object]]] = field(
        default_factory=lambda: deque(maxlen=_MAX_TRAILING)
    )
    _single_cells: int = 0

    def add(self, number: int, row: Mapping[str, object], blanks: int) -> None:
        """Add a row that is not blank; ``blanks`` is the number of its blank cells."""
        self._last.append((number, row))
        self._single_cells += len(row) - blanks == 1

    def find(self) -> tuple[TrailingRow, ...]:
        """The totals and notes, in the order of the rows."""
        found: list[TrailingRow] = []
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
            found.append(TrailingRow(number, word))
        return tuple(reversed(found))


def _find_total(texts: Sequence[str]) -> str:
    """The word for a total if all other cells are numbers; "" if the row is not a total."""
    words = [text for text in texts if not _NUMBER.fullmatch(text)]
    return words[0] if len(words) == 1 and _TOTAL.fullmatch(words[0]) else ""


def describe_trailing_rows(rows: Sequence[TrailingRow]) -> str:
    """A sentence on the rows; "" without rows."""
    if not rows:
        return ""
    listed = [f"row {one.number:,}{f' ({quote(one.word)})' if one.word else ''}" for one in rows]
    return (
        f"{format_list(listed)} at the end of the table may be a total or a note, not a record: "
        f"{'they are' if len(rows) != 1 else 'it is'} read like any other row (delete "
        f"{'them' if len(rows) != 1 else 'it'} from the table if that is wrong)"
    )
