"""Cleaning of text: removal of invisible and broken characters."""

from __future__ import annotations

import re

_LINE_ENDS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
# Control, zero-width, bidi and tag characters: invisible to a person, but not to a model.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_UNWANTED_CHARACTER = re.compile(f"[{_LINE_ENDS}{_INVISIBLE}\ud800-\udfff]")

# One word; of scripts without blanks between words, one character.
WORD_PATTERN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|(?:(?![\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])\w)+"
)


_MISSING_VALUES = frozenset({"", "nan", "null", "none", "n/a", "#n/a", "<na>"})


def clean_text(text: str) -> str:
    """Strip the text, convert line ends and lone surrogates, and remove invisible characters.

    Line ends become ``\\n``, lone surrogates U+FFFD.
    """
    return _UNWANTED_CHARACTER.sub(_replace_character, text.replace("\r\n", "\n")).strip()


def _replace_character(found: re.Match[str]) -> str:
    character = found[0]
    if character in _LINE_ENDS:
        return "\n"
    return "\ufffd" if "\ud800" <= character <= "\udfff" else ""


def is_clean_line(text: str) -> bool:
    """Whether the text is a single line without invisible characters."""
    return "\n" not in text and "\t" not in text and clean_text(text) == text.strip()


def is_blank(value: object) -> bool:
    """Whether a table's cell is empty or a word for a missing value."""
    if isinstance(value, str):
        text = value.strip()
        return len(text) < 100 and clean_text(text).casefold() in _MISSING_VALUES
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or str(value).casefold() in _MISSING_VALUES
