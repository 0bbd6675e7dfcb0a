"""Rows whose ids a spreadsheet has changed: 0001 became 1, a long number became 1.23457E+17."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import SequenceMatcher
from typing import TypeVar

from medtask.display import format_count, quote
from medtask.names import normalize_spelling
from medtask.tables.formula_escapes import unescape_formula

_MIN_SIMILARITY = 0.8  # of texts; a spreadsheet may have saved letters as question marks
_MAX_COMPARED_LENGTH = 2_000  # characters; XLSX cuts long texts
_NOT_ASCII_WORD = re.compile("[^0-9A-Za-z]+")

Cells = Mapping[str, object]
Row = TypeVar("Row", str, int)  # its id or its index


@dataclass(frozen=True, slots=True)
class MatchedIds:
    """The ids of the rows of a file.

    Attributes:
        names: The known id of each row; None if it was not found.
        notes: How many ids were changed, and how their rows were found.
        unclear: An id that was not found, and a known id that it may be; None if there is none.
    """

    names: tuple[str | None, ...]
    notes: tuple[str, ...]
    unclear: tuple[str, str] | None = None


def match_changed_ids(
    rows: Sequence[tuple[str, Cells]],
    known: Mapping[str, Cells],
    *,
    in_order: bool = False,
    verified: bool = False,
) -> MatchedIds:
    """Find the known row of each row of a file that may have been saved by a spreadsheet.

    An id that is known is taken as it is. Others are matched if exactly one known row is left that
    has the same number as id, or the same text in other columns, or with ``in_order``, the same
    place. Rows whose texts in other columns differ are not matched.

    Args:
        rows: Ids and cells of the file.
        known: Cells by id, in their order.
        in_order: Whether the file was written with all known rows, in this order.
        verified: Whether a known id, too, counts only if no text in other columns contradicts it.
    """
    if not rows:
        return MatchedIds((), ())
    names = [_find_exact(name, known) for name, _ in rows]
    texts = _KnownTexts(rows[0][1], known)
    if verified:
        names = [
            None if name is not None and texts.contradict(name, cells) else name
            for name, (_, cells) in zip(names, rows, strict=True)
        ]
    found_by: dict[int, str] = {}

    def assign(index: int, name: str, how: str) -> None:
        names[index] = name
        found_by[index] = how

    def list_open() -> tuple[list[int], list[str]]:
        taken = set(names)
        return (
            [index for index, name in enumerate(names) if name is None],
            [name for name in known if name not in taken],
        )

    unmatched, left = list_open()
    if not unmatched:
        return MatchedIds(tuple(names), ())
    for make_key in (_to_number, _to_rounded_number):
        unmatched, left = list_open()
        numbers = _find_unique((make_key(rows[index][0]), index) for index in unmatched)
        by_number = _find_unique((make_key(name), name) for name in left)
        for number in numbers.keys() & by_number.keys():
            index, match = numbers[number], by_number[number]
            if not texts.contradict(match, rows[index][1]):
                assign(index, match, "value")
    unmatched, left = list_open()
    by_text = _find_unique((texts.by_name[name], name) for name in left)
    keys = _find_unique((texts.make_key(rows[index][1]), index) for index in unmatched)
    for key in keys.keys() & by_text.keys():
        assign(keys[key], by_text[key], "text of other columns")
    unmatched, left = list_open()
    if in_order and len(rows) == len(known):
        remaining = set(left)
        for index, name in enumerate(known):
            if names[index] is None and name in remaining and agree(rows[index][1], known[name]):
                assign(index, name, "place in the file")
    unclear = _find_unclear(
        [name for (name, _), found in zip(rows, names, strict=True) if not found], known
    )
    return MatchedIds(tuple(names), _describe(rows, names, found_by), unclear)


def _find_exact(name: str, known: Mapping[str, Cells]) -> str | None:
    return next((one for one in (name, unescape_formula(name)) if one in known), None)


def _find_unique(pairs: Iterable[tuple[object, Row]]) -> dict[object, Row]:
    """The names or rows by key, without keys that are None, empty or occur more than once."""
    listed = [(key, row) for key, row in pairs if key]
    counts = Counter(key for key, _ in listed)
    return {key: row for key, row in listed if counts[key] == 1}


def _to_number(text: str) -> str | None:
    """The number in a text in a form that is equal for equal numbers; None for other texts."""
    try:
        number = Decimal(text.strip().replace(",", "."))
    except InvalidOperation:
        return None
    return str(number.normalize()) if number.is_finite() else None


def _to_rounded_number(text: str) -> str | None:
    """A long number with the 6 digits that a spreadsheet shows of it; None for short ones."""
    number = _to_number(text)
    if number is None:
        return None
    value = Decimal(number)
    is_long = value.adjusted() + 1 > 11
    return f"{value:.5E}" if is_long else None


class _KnownTexts:
    """The texts of known rows in the columns that a file has, too."""

    def __init__(self, first_row: Cells, known: Mapping[str, Cells]) -> None:
        shared = next(iter(known.values()), {}).keys()
        self._columns = [column for column in first_row if column in shared]
        self._known = known
        self.by_name = {name: self.make_key(cells) for name, cells in known.items()}
        self._all = set(self.by_name.values())

    def make_key(self, cells: Cells) -> tuple[str, ...]:
        return tuple(_list_texts(cells, self._columns))

    def contradict(self, name: str, cells: Cells) -> bool:
        """Whether a row has other texts than the known one, or exactly those of another one."""
        key = self.make_key(cells)
        return agree(cells, self._known[name]) is False or (
            bool(key) and key in self._all and key != self.by_name[name]
        )


def _find_unclear(unmatched: Iterable[str], known: Iterable[str]) -> tuple[str, str] | None:
    """The first id that was not found although a known one has the same number."""
    by_number = {number: name for name in known if (number := _to_number(name)) is not None}
    return next(
        (
            (name, by_number[number])
            for name in unmatched
            if (number := _to_number(name)) in by_number and number is not None
        ),
        None,
    )


def _list_texts(cells: Cells, columns: Iterable[str]) -> list[str]:
    return [
        normalize_spelling(cell)
        for column in columns
        if isinstance(cell := cells.get(column), str) and any(map(str.isalpha, cell))
    ]


def agree(first: Cells, second: Cells) -> bool | None:
    """Whether texts in shared columns are equal or nearly so; None if there are none."""
    compared = [
        _are_similar(one, other)
        for column in first.keys() & second.keys()
        for one in _list_texts(first, [column])
        for other in _list_texts(second, [column])
    ]
    known = [result for result in compared if result is not None]
    return all(known) if known else None


def _are_similar(first: str, second: str) -> bool | None:
    """Whether two texts are nearly equal; None if they have no characters to compare.

    A spreadsheet that read UTF-8 in another encoding has changed all letters beyond ASCII.
    """
    first, second = first[:_MAX_COMPARED_LENGTH], second[:_MAX_COMPARED_LENGTH]
    if first == second:
        return True
    if not (first.isascii() and second.isascii()):
        first, second = _NOT_ASCII_WORD.sub("", first), _NOT_ASCII_WORD.sub("", second)
        if not first and not second:
            return None
    return SequenceMatcher(None, first, second, False).ratio() >= _MIN_SIMILARITY


def _describe(
    rows: Sequence[tuple[str, Cells]], names: Sequence[str | None], found_by: Mapping[int, str]
) -> tuple[str, ...]:
    if not found_by:
        return ()
    first = min(found_by)
    ways = Counter(found_by.values())
    listed = ", ".join(f"by {way} ({count:,})" for way, count in ways.items())
    # Another record can have the same text: only for equal numbers the spreadsheet is certain.
    if set(ways) == {"value"}:
        what = "written differently, as after saving in a spreadsheet"
    elif len(found_by) == 1:
        what = "that differs is taken for the same row"
    else:
        what = "that differ are taken for the same rows"
    return (
        f"{format_count(len(found_by), 'id')} {what} ({quote(names[first])} and "
        f"{quote(rows[first][0])}): the rows were found {listed}",
    )
