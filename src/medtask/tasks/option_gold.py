"""Gold of multiple choice: the letters that cells stand for, and the form of a column of cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from medtask.display import format_list, format_row_count
from medtask.names import NO_MATCH, NameMatch, Names
from medtask.tables.cell_values import read_cell
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.row_options import RowOptions
from medtask.tasks.task import GOLD_FORMS, GoldForm

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?")
_NUMBER = re.compile(r"(\d{1,2})(?:\.0*)?")
# "A) text", "(b) text", "C. text", "2: text".
_MARKED = re.compile(r"\(?\s*([A-Za-z]|\d{1,2})\s*[).:](?:\s*[-–])?\s*(\S.*)", re.DOTALL)
_SEPARATORS = (";", "|", ",", "/")
_MAX_LISTED_ROWS = 5

_FORM_DESCRIPTIONS: Mapping[GoldForm, str] = {
    "letter": "letters or keys of options",
    "text": "texts of options",
    "index0": "numbers of options, from 0",
    "index1": "numbers of options, from 1",
}

Letters = tuple[str, ...]


def find_letters(
    value: object, options: RowOptions, several: bool, form: GoldForm | None = None
) -> Letters | None:
    """The letters of a gold cell, in the options' order; None for no option or too many.

    Without a form, an option is given by its letter, its key in the row's mapping, or its text. A
    cell is not valid if that has two meanings: a letter that is the text of another option, or a
    number that is the text of an option and could be the position of another one.

    With ``several``: a list, a list as text, options separated by ";", "|", "," or "/", or
    consecutive letters ("ACD").
    """
    readings = find_readings(value, options, several)
    if form is not None:
        return readings.get(form)
    named = {readings[one] for one in ("letter", "text") if one in readings}
    return named.pop() if len(named) == 1 and len(set(readings.values())) == 1 else None


def match_option_texts(
    value: object, options: RowOptions, several: bool, form: GoldForm | None = None
) -> list[tuple[str, NameMatch]]:
    """The texts of options in a gold cell, and how they match; without letters and numbers.

    Empty if the cell is not valid.
    """
    if find_letters(value, options, several, form) is None:
        return []
    finder, listed = _OptionFinder(options), read_annotations(value)
    text = read_cell(value) or ""
    if listed is not None:
        parts = [read_cell(one) or "" for one in listed]
    elif not several or finder.match_text(text).name is not None:
        parts = [text]
    else:
        parts = next((text.split(one) for one in _SEPARATORS if one in text), [text])
    found = [(part.strip(), finder.match_text(part.strip())) for part in parts]
    return [(part, match) for part, match in found if match.name is not None]


def find_readings(value: object, options: RowOptions, several: bool) -> dict[GoldForm, Letters]:
    """The letters of a gold cell for every form in which it can be read."""
    finder = _OptionFinder(options)
    readings = {}
    for form in GOLD_FORMS:
        letters = _read_cell_letters(value, finder, several, form)
        if letters is not None:
            readings[form] = letters
    return readings


@dataclass(slots=True)
class GoldColumn:
    """The forms in which all cells of a column of gold can be read.

    Attributes:
        forms: The forms that fit all cells so far that can be read at all.
        ambiguous_rows: Rows, from 1, whose forms stand for different options.
    """

    forms: set[GoldForm] = field(default_factory=lambda: set(GOLD_FORMS))
    ambiguous_rows: list[int] = field(default_factory=list)
    _different: set[tuple[GoldForm, GoldForm]] = field(default_factory=set)
    _has_unnamed: bool = False

    def add(self, row: int, readings: Mapping[GoldForm, Letters]) -> None:
        """Add the readings of one cell."""
        if not readings:
            return
        self.forms &= set(readings)
        self._has_unnamed |= readings.keys().isdisjoint(("letter", "text"))
        if len(set(readings.values())) > 1:
            self.ambiguous_rows.append(row)
            self._different |= {
                pair
                for pair in combinations(GOLD_FORMS, 2)
                if set(pair) <= set(readings) and readings[pair[0]] != readings[pair[1]]
            }

    def infer_form(self) -> GoldForm | None:
        """The only form that fits; None if there are more or none, or if none is needed."""
        if not self.ambiguous_rows and not self._has_unnamed:
            return None
        forms = [form for form in GOLD_FORMS if form in self.forms]
        if any(pair in self._different for pair in combinations(forms, 2)):
            return None
        return forms[0] if forms else None

    def describe(self) -> list[str]:
        """The notes for a user: the inferred form, or the rows that have two meanings."""
        form = self.infer_form()
        if form is not None:
            return [
                f"is read as {_FORM_DESCRIPTIONS[form]}, because only these fit all rows that "
                f"can be read (gold_is: {form})"
            ]
        if not self.ambiguous_rows:
            return []
        rows, count = self.ambiguous_rows, len(self.ambiguous_rows)
        listed = format_list([f"{row:,}" for row in rows[:_MAX_LISTED_ROWS]])
        more = f" and {count - _MAX_LISTED_ROWS:,} more" if count > _MAX_LISTED_ROWS else ""
        forms = [name for name in GOLD_FORMS if any(name in pair for pair in self._different)]
        return [
            f"can be read in different ways in {format_row_count(count)} (row{'s' * (count > 1)} "
            f"{listed}{more}), as {' or '.join(_FORM_DESCRIPTIONS[one] for one in forms)}: these "
            "rows are left out of the metrics unless the task states the form (gold_is: "
            f"{' or '.join(forms)}, under answer)"
        ]


class _OptionFinder:
    """Finds the option that a text stands for, in one form."""

    def __init__(self, options: RowOptions) -> None:
        self._options = options
        self._by_text = {option.text: option.letter for option in options.options}
        self._texts = Names(self._by_text)
        self._keys = Names(options.keys)

    @property
    def letters(self) -> Letters:
        return self._options.letters

    def find(self, text: str, form: GoldForm) -> str | None:
        """The letter of the option; None if there is none."""
        if form == "letter":
            return self._find_mark(text) or self._find_marked(text)
        if form == "text":
            name = self._texts.find(text)
            return self._find_marked(text) if name is None else self._by_text[name]
        number = _NUMBER.fullmatch(text)
        # A number that is a key of the row, or that marks its options, is not a position.
        if number is None or self._find_mark(text) is not None:
            return None
        return self._options.positions.get(int(number[1]) - (form == "index1"))

    def match_text(self, text: str) -> NameMatch:
        """The option whose text is written, perhaps after its letter; no match for a letter."""
        if self._find_mark(text) is not None:
            return NO_MATCH
        match, marked = self._texts.match(text), _MARKED.fullmatch(text)
        return self._texts.match(marked[2]) if match.name is None and marked else match

    def _find_mark(self, text: str) -> str | None:
        mark = _LETTER.fullmatch(text)
        if mark and mark[1].upper() in self.letters:
            return mark[1].upper()
        key = self._keys.find(text)
        return None if key is None else self._options.keys[key]

    def _find_marked(self, text: str) -> str | None:
        """The option of "A) text", if the letter and the text are those of one option."""
        marked = _MARKED.fullmatch(text)
        if marked is None:
            return None
        letter, name = self._find_mark(marked[1]), self._texts.find(marked[2])
        return letter if name is not None and self._by_text[name] == letter else None


def _read_cell_letters(
    value: object, finder: _OptionFinder, several: bool, form: GoldForm
) -> Letters | None:
    listed = read_annotations(value)
    if listed is not None:
        found: Sequence[str | None] = [finder.find(read_cell(one) or "", form) for one in listed]
    else:
        text = read_cell(value) or ""
        whole = finder.find(text, form)
        found = [whole] if whole or not several else _split_letters(text, finder, form)
    letters = {letter for letter in found if letter}
    if None in found or not letters or (len(letters) > 1 and not several):
        return None
    return tuple(letter for letter in finder.letters if letter in letters)


def _split_letters(text: str, finder: _OptionFinder, form: GoldForm) -> list[str | None]:
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator) if part.strip()]
        found = [finder.find(part, form) for part in parts]
        if len(parts) > 1 and None not in found:
            return found
    letters = list("".join(text.upper().split()))
    is_letters = form == "letter" and len(set(letters)) == len(letters)
    return [*letters] if is_letters and set(letters) <= set(finder.letters) else [None]
