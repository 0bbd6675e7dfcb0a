"""Rows whose ids a spreadsheet has changed: 0001 became 1, a long number became 1.23457E+17."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import SequenceMatcher

from medtask.display import format_count, quote
from medtask.names import normalize_spelling
from medtask.tables.formula_escapes import unescape_formula

_MIN_SIMILARITY = 0.8  # of texts; a spreadsheet may have saved letters as question marks
_NOT_ASCII_WORD = re.compile("[^0-9A-Za-z]+")

Cells = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MatchedIds:
    """The ids of the rows of a file.

    Attributes:
        names: The known id of each row; None if it was not found.
        notes: How many ids were changed, and how their rows were found.
    """

    names: tuple[str | None, ...]
    notes: tuple[str, ...]


def match_changed_ids(
    rows: Sequence[tuple[str, Cells]], known: Mapping[str, Cells], *, in_order: bool = False
) -> MatchedIds:
    """Find the known row of each row of a file that may have been saved by a spreadsheet.

    An id that is known is taken as it is. Others are matched if exactly one known row is left that
    has the same number as id, or the same text in other columns, or with ``in_order``, the same
    place. Rows whose texts in other columns differ are not matched.

    Args:
        rows: Ids and cells of the file.
        known: Cells by id, in their order.
        in_order: Whether the file was written with all known rows, in this order.
    """
    names = [_find_exact(name, known) for name, _ in rows]
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
        numbers = {index: make_key(rows[index][0]) for index in unmatched}
        by_number = _find_unique((make_key(name), name) for name in left)
        counts = Counter(numbers.values())
        for index, number in numbers.items():
            match = by_number.get(number) if number is not None else None
            if match and counts[number] == 1 and _agree(rows[index][1], known[match]) is not False:
                assign(index, match, "value")
    unmatched, left = list_open()
    by_text = _find_unique((_to_text_key(known[name], rows[0][1]), name) for name in left)
    keys = {index: _to_text_key(rows[index][1], rows[0][1]) for index in unmatched}
    key_counts = Counter(keys.values())
    for index, key in keys.items():
        if key and key_counts[key] == 1 and key in by_text:
            assign(index, by_text[key], "text of other columns")
    unmatched, left = list_open()
    if in_order and len(rows) == len(known):
        remaining = set(left)
        for index, name in enumerate(known):
            if names[index] is None and name in remaining and _agree(rows[index][1], known[name]):
                assign(index, name, "place in the file")
    return MatchedIds(tuple(names), _describe(rows, names, found_by))


def _find_exact(name: str, known: Mapping[str, Cells]) -> str | None:
    return next((one for one in (name, unescape_formula(name)) if one in known), None)


def _find_unique(pairs: Iterable[tuple[object, str]]) -> dict[object, str]:
    """The names by key, without keys that are None, empty or occur more than once."""
    listed = [(key, name) for key, name in pairs if key]
    counts = Counter(key for key, _ in listed)
    return {key: name for key, name in listed if counts[key] == 1}


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


def _list_texts(cells: Cells, columns: Iterable[str]) -> list[str]:
    return [
        normalize_spelling(cell)
        for column in columns
        if isinstance(cell := cells.get(column), str) and any(map(str.isalpha, cell))
    ]


def _to_text_key(cells: Cells, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(_list_texts(cells, columns))


def _agree(first: Cells, second: Cells) -> bool | None:
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
    listed = ", ".join(f"{count:,} by {way}" for way, count in ways.items())
    return (
        f"{format_count(len(found_by), 'id')} written differently, as after saving in a "
        f"spreadsheet ({quote(names[first])} and {quote(rows[first][0])}): the rows were found "
        f"{listed}",
    )
