"""Words for missing values: cells that have a text, and stand for no value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

# The words of pandas.read_csv, further ones that databases, SAS and spreadsheets write, and
# dashes. Words of a language ("none", "unknown", "nil") are not among them: they can be findings.
MISSING_WORDS = frozenset(
    (
        *("NA", "N/A", "n/a", "<NA>", "NaN", "nan", "-NaN", "-nan", "NaT", "None", "NULL", "null"),
        *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "\\N", ".", "-", "--", "---", "\u2013"),
        *("\u2014", "\u2212", "#N/A", "#N/A N/A", "#NA", "#NULL!", "#VALUE!", "#REF!", "#DIV/0!"),
        *("#NAME?", "#NUM!"),
    )
)

_MAX_LENGTH = 200  # characters: a longer cell is not a word


class MissingText(str):
    """A cell with a word for a missing value. The text is kept, for output tables and labels."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def mark_missing(
    row: Mapping[str, object], words: Set[str] = MISSING_WORDS
) -> Mapping[str, object]:
    """The row, in which cells that hold one of the words are `MissingText`."""
    try:
        # Most rows are texts without such a word. A loop over their cells takes three times as
        # long, and this is done for every cell of a table.
        if words.isdisjoint(map(str.strip, row.values())):  # type: ignore[arg-type]
            return row
    except TypeError:
        pass  # some cells are not texts
    found = {
        column: MissingText(cell)
        for column, cell in row.items()
        if (
            len(cell) <= _MAX_LENGTH and cell.strip() in words
            if isinstance(cell, str)
            else _is_number_word(cell, words)
        )
    }
    return {**row, **found} if found else row


def _is_number_word(cell: object, words: Collection[str]) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool) and str(cell) in words
