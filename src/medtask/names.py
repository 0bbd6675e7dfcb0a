"""Names: which texts are the same name of a label, an option or a class, and how they match."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import TypeVar

from medtask.unicode_text import remove_noise

KeyT = TypeVar("KeyT")

_NUMBER = re.compile(r"[+-]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+-]?\d{1,3})?")
# With three decimals the comma may separate thousands: 1,000 is 1 or 1000.
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,30},(?:\d{1,2}|\d{4,30})")

_HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_APOSTROPHES = "`\u00b4\u2018\u2019\u201a\u201b\u2032\u02b9\u02bc\uff07"
_QUOTES = "\u201c\u201d\u201e\u201f\u2033\u02ba\u00ab\u00bb\uff02"
_SAME_CHARACTER = {
    **dict.fromkeys(map(ord, _HYPHENS), "-"),
    **dict.fromkeys(map(ord, _APOSTROPHES), "'"),
    **dict.fromkeys(map(ord, _QUOTES), '"'),
}
# Compatibility characters that look like their decomposition: ligatures, presentation forms,
# Roman numerals, the micro sign. Superscripts and fractions are not among them.
_SAME_LOOK = frozenset({"<compat>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>"})
_OTHER_WIDTH = frozenset({"<wide>", "<narrow>", "<square>"})
# Turkish i without a dot, Arabic yeh and kaf as in Persian, tatweel.
_SIMILAR_CHARACTER = {0x131: "i", 0x64A: "\u06cc", 0x643: "\u06a9", 0x640: None}
# Joiners and the choice between a text and an emoji form.
_NO_JOINERS = dict.fromkeys((0x200C, 0x200D, 0xFE0E, 0xFE0F))
_OPTIONAL_BLANK = re.compile(r" ?([!-/:-@\[-`{-~±×≤≥°]) ?|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)")

_TRUE_AND_FALSE = ("true", "false")
# Words for true and false in tables, from the closest to the task's names to the least close.
_BOOLEAN_PAIRS = (_TRUE_AND_FALSE, ("yes", "no"), ("y", "n"), ("1", "0"))
# Words for yes and no that stand for booleans of JSON and spreadsheets: de, nb, sv, nl, fr, es, pt,
# pl, fi, cs, ru.
_TRANSLATED_YES_NO = (
    *(("ja", no) for no in ("nein", "nei", "nej", "nee")),
    *(("oui", "non"), ("sí", "no"), ("si", "no"), ("sim", "não"), ("tak", "nie")),
    *(("kyllä", "ei"), ("ano", "ne"), ("да", "нет")),
)
# Booleans as a spreadsheet writes them to CSV: de, fr, es, it, pt, nl, nb, sv, da, pl.
_SPREADSHEET_TRUE = frozenset(
    ("wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar", "sann", "sant", "sand", "prawda")
)
_SPREADSHEET_FALSE = frozenset(
    ("falsch", "faux", "falso", "onwaar", "usann", "usant", "falskt", "falsk", "fałsz")
)

_BOOLEAN_WORDS = frozenset(word for pair in _BOOLEAN_PAIRS[:2] for word in pair)
_MIN_WORD_LETTERS = 4  # shorter texts may be symbols, in which capital letters matter


class MatchLevel(StrEnum):
    """How a text was matched to a name, from the strictest comparison to the loosest.

    EXACT: the same characters, apart from blanks at both ends.
    SPELLING: the same to a reader: Unicode form, kinds of blanks, hyphens and quotes, and
    invisible characters are ignored.
    VALUE: a number of equal value ("1.0" and "1"), or a boolean ("TRUE" and "yes").
    CASE: the same without regard to capital letters, character width, and blanks next to
    punctuation.
    """

    EXACT = "exact"
    SPELLING = "spelling"
    VALUE = "value"
    CASE = "case"


@dataclass(frozen=True, slots=True)
class NameMatch:
    """The result of a look-up.

    Attributes:
        name: The name; None if no name fits, or several fit equally well.
        level: The level at which names fit; None if no name fits.
        ambiguous: The names that fit equally well; empty if there is one or none.
    """

    name: str | None = None
    level: MatchLevel | None = None
    ambiguous: tuple[str, ...] = ()

    @property
    def is_normalized(self) -> bool:
        """Whether a name was found that is not exactly the text."""
        return self.name is not None and self.level is not MatchLevel.EXACT


NO_MATCH = NameMatch()


class Names:
    """Names that can be looked up by texts that a reader would call the same.

    Levels are tried from the strictest to the loosest; the first one at which any name fits
    decides. If several names fit at that level, none is chosen.

    Args:
        names: The names, such as the labels of a task.
        aliases: Further texts for a name, such as the keys of options.
    """

    def __init__(self, names: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._texts = {name: name for name in self.names}
        self._aliases = dict(aliases or {})

    def __contains__(self, text: object) -> bool:
        """Whether the text is exactly a name."""
        return text in self._texts

    def find(self, text: str) -> str | None:
        """The name that the text stands for; None if there is none, or more than one."""
        return self.match(text).name

    def match(self, text: str) -> NameMatch:
        """Look up a text at all levels."""
        text = text.strip()
        if text in self._texts:
            return NameMatch(text, MatchLevel.EXACT)
        if text in self._aliases:
            return NameMatch(self._aliases[text], MatchLevel.EXACT)
        spelling = normalize_spelling(text)
        for level, found in (
            (MatchLevel.SPELLING, self._by_spelling.get(spelling)),
            (MatchLevel.VALUE, self._find_value(spelling)),
            (MatchLevel.CASE, self._by_folded_text.get(_fold_spelling(spelling))),
        ):
            if found:
                return (
                    NameMatch(found[0], level) if len(found) == 1 else NameMatch(None, level, found)
                )
        return NO_MATCH

    @cached_property
    def _by_spelling(self) -> dict[str, tuple[str, ...]]:
        return self._index(normalize_spelling)

    @cached_property
    def _by_folded_text(self) -> dict[str, tuple[str, ...]]:
        return self._index(fold_case)

    @cached_property
    def _by_number(self) -> dict[Decimal, tuple[str, ...]]:
        return self._index(lambda text: _parse_number(normalize_spelling(text)))

    def _index(self, normalize: Callable[[str], KeyT | None]) -> dict[KeyT, tuple[str, ...]]:
        found: dict[KeyT, dict[str, None]] = {}
        for text, name in (*self._texts.items(), *self._aliases.items()):
            key = normalize(text)
            if key is not None:
                found.setdefault(key, {})[name] = None
        return {key: tuple(names) for key, names in found.items()}

    def _find_value(self, spelling: str) -> tuple[str, ...] | None:
        number = _parse_number(spelling)
        if number is not None and (names := self._by_number.get(number)):
            return names
        return self._find_boolean(spelling, number)

    def _find_boolean(self, spelling: str, number: Decimal | None) -> tuple[str, ...] | None:
        value, pairs = _parse_boolean(spelling, number)
        # Both words of a pair must be names: "N" alone is a stage of a tumour, not a "no".
        for true, false in pairs:
            names_of_true = self._find_boolean_names(true, _SPREADSHEET_TRUE)
            names_of_false = self._find_boolean_names(false, _SPREADSHEET_FALSE)
            if names_of_true and names_of_false:
                return names_of_true if value else names_of_false
        return None

    def _find_boolean_names(self, word: str, translations: Set[str]) -> tuple[str, ...] | None:
        names = self._by_folded_text.get(word)
        if names or word not in _TRUE_AND_FALSE:
            return names
        translated = (self._by_folded_text.get(other, ()) for other in sorted(translations))
        return tuple(chain.from_iterable(translated))


def merge_spellings(texts: Iterable[str], known: Iterable[str] = ()) -> tuple[str, ...]:
    """The known names, and of the other texts the first spelling of each name.

    For texts that no task defines. Capital letters are ignored in words of four or more letters,
    unless capitals are mixed into one of them ("AaBb").
    """
    known = tuple(dict.fromkeys(known))
    texts = tuple(dict.fromkeys(texts))
    symbols = {
        fold_case(text) for text in (*known, *texts) if not _is_word(normalize_spelling(text))
    }
    names = Names(known)
    merged = {_make_merge_key(name, symbols): name for name in known}
    found = list(known)
    for text in texts:
        match = names.match(text)
        if match.name is not None and match.level is not MatchLevel.CASE:
            continue
        if merged.setdefault(_make_merge_key(text, symbols), text) is text and text not in known:
            found.append(text)
    return tuple(found)


def _is_word(spelling: str) -> bool:
    letters = "".join(filter(str.isalpha, spelling))
    has_plain_case = (
        letters.islower()
        or letters.isupper()
        or letters[1:].islower()
        or spelling.istitle()
        or not letters
    )
    return has_plain_case and (
        len(letters) >= _MIN_WORD_LETTERS or letters.casefold() in _BOOLEAN_WORDS
    )


def _make_merge_key(text: str, symbols: set[str]) -> object:
    spelling = normalize_spelling(text)
    number = _parse_number(spelling)
    # A leading zero marks a code: "01" and "1" may be different ones.
    if number is not None and not re.match(r"[+-]?0\d", spelling):
        return number
    folded = fold_case(text)
    return spelling if folded in symbols else folded


def normalize_spelling(text: str) -> str:
    """The text in a form that is equal for texts which look the same to a reader.

    Differences of Unicode form (NFC), blanks, hyphens, apostrophes and quotes, ligatures, and
    invisible characters are removed. Capital letters, accents and superscripts are kept.
    """
    text = remove_noise(text.translate(_SAME_CHARACTER))
    if not text.isascii():
        text = unicodedata.normalize("NFC", _replace_compatible(text, _SAME_LOOK))
        text = text.translate(_SAME_CHARACTER)
    return " ".join(text.split())


def fold_case(text: str) -> str:
    """`normalize_spelling`, also without capital letters, character widths and some blanks.

    Blanks next to punctuation, and between a digit and a letter, are removed.
    """
    return _fold_spelling(normalize_spelling(text))


def _fold_spelling(spelling: str) -> str:
    folded = spelling.casefold()
    if not folded.isascii():
        folded = _replace_compatible(folded, _OTHER_WIDTH).casefold()
        folded = folded.replace("i\u0307", "i")  # casefold() of the Turkish capital i with a dot
        folded = unicodedata.normalize("NFC", folded).translate(_SIMILAR_CHARACTER)
        folded = folded.translate(_SAME_CHARACTER).translate(_NO_JOINERS)
    return _OPTIONAL_BLANK.sub(r"\1", folded)


def _replace_compatible(text: str, tags: frozenset[str]) -> str:
    return "".join(
        unicodedata.normalize("NFKC", character)
        if unicodedata.decomposition(character).partition(" ")[0] in tags
        else character
        for character in text
    )


def _parse_number(text: str) -> Decimal | None:
    """The value of a number with digits, a point or comma, and an exponent; None for others."""
    if _DECIMAL_COMMA.fullmatch(text):
        return Decimal(text.replace(",", "."))
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _parse_boolean(
    text: str, number: Decimal | None
) -> tuple[bool | None, tuple[tuple[str, str], ...]]:
    """Whether the text is true or false, and the pairs of names that it can stand for."""
    word = text.casefold()
    if word in _SPREADSHEET_TRUE or word in _SPREADSHEET_FALSE:
        word = _TRUE_AND_FALSE[word in _SPREADSHEET_FALSE]
    if word in _TRUE_AND_FALSE:
        return word == "true", (*_BOOLEAN_PAIRS, *_TRANSLATED_YES_NO)
    # "1" can be the first of several codes: it stands for true, but not for yes.
    if number is not None and number in (0, 1):
        return bool(number), (_TRUE_AND_FALSE,)
    for pair in _BOOLEAN_PAIRS[1:3]:
        if word in pair:
            return word == pair[0], tuple(other for other in _BOOLEAN_PAIRS[:3] if other != pair)
    return None, ()
