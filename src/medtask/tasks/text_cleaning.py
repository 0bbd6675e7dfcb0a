"""Cleaning of text: line ends, and removal of invisible and broken characters."""

from __future__ import annotations

import re
import unicodedata

import regex

from medtask.records import Record
from medtask.tables.cell_values import is_missing
from medtask.unicode_text import find_noise, remove_noise

_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_CRLF = re.compile("\r\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Differences between copies of a text. They are part of the format of stored fingerprints.
_IGNORED_IN_COPIES = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Pi}\p{Pf}'\"`]")
_DASH = regex.compile(r"[\p{Pd}\u2212]")
_WHOLE_NUMBER = re.compile(r"0*(\d+?)(?:\.0+)?")


def clean_text(text: str) -> str:
    """Strip the text, convert line ends and lone surrogates, and remove invisible characters.

    Line ends become ``\\n``, lone surrogates U+FFFD. See `remove_noise` for what is invisible.
    """
    # U+FFFD first: a joiner between halves of a character has no effect.
    return remove_noise(_LINE_END.sub("\n", _SURROGATE.sub("\ufffd", text))).strip()


def clean_text_with_positions(text: str) -> tuple[str, list[int]]:
    """The cleaned text, and for each of its characters the position in ``text``.

    The line end ``\\r\\n`` has the position of its first character.
    """
    noise = set(find_noise(_SURROGATE.sub("\ufffd", text)))
    second = {found.end() - 1 for found in _CRLF.finditer(text)}
    positions = [place for place in range(len(text)) if place not in noise | second]
    cleaned = clean_text(text)
    kept = "".join(text[place] for place in positions)  # line ends are white space as they are
    first = len(kept) - len(kept.lstrip())
    return cleaned, positions[first : first + len(cleaned)]


def is_clean_line(text: str) -> bool:
    """Whether the text is a single line without invisible characters."""
    return find_unclean_character(text) is None


def find_unclean_character(text: str) -> str | None:
    """The first line break, tab or invisible character of a stripped text, as Unicode names it.

    None if there is none.
    """
    text = text.strip()
    cleaned, positions = clean_text_with_positions(text)
    kept = dict(zip(positions, cleaned, strict=True))
    for place, character in enumerate(text):
        if character in "\n\t" or kept.get(place) != character:
            return format_character(character)
    return None


def format_character(character: str) -> str:
    """A character as Unicode names it: "U+00A0 (NO-BREAK SPACE)"."""
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}{f' ({name})' if name else ''}"


def is_blank(value: object) -> bool:
    """Whether a table's cell is missing or has no visible character."""
    if isinstance(value, list | tuple | dict):
        return not value
    # A text of a hundred characters is cleaned when the prompt is built.
    return is_missing(value) or (
        isinstance(value, str) and len(value.strip()) < 100 and not clean_text(value)
    )


def make_text_key(text: str) -> str:
    """A key that is equal for copies of a text: without case, whitespace and character width.

    Trained models store hashes of these keys. Labels and options are compared by `names`.
    """
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalize_copy(text: str) -> str:
    """A text without case, blanks, invisible characters, quotes and punctuation at its ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _DASH.sub("-", _IGNORED_IN_COPIES.sub("", folded)).strip(".,;:!?")


def normalize_group(group: str) -> str:
    """A group's name without case, blanks and the leading and decimal zeros of whole numbers."""
    name = normalize_copy(group)
    number = _WHOLE_NUMBER.fullmatch(name)
    return number[1] if number else name


def normalize_record_group(record: Record) -> str | None:
    """The name of a record's group by `normalize_group`; None without a group."""
    return None if record.group is None else normalize_group(record.group)
