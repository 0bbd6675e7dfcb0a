"""Cleaning of text: line ends, and removal of invisible and broken characters."""

from __future__ import annotations

import re

from medtask.unicode_text import remove_noise

_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_MISSING_VALUES = frozenset({"", "nan", "null", "none", "n/a", "#n/a", "<na>"})


def clean_text(text: str) -> str:
    """Strip the text, convert line ends and lone surrogates, and remove invisible characters.

    Line ends become ``\\n``, lone surrogates U+FFFD. See `remove_noise` for what is invisible.
    """
    # U+FFFD first: a joiner between halves of a character has no effect.
    return remove_noise(_LINE_END.sub("\n", _SURROGATE.sub("\ufffd", text))).strip()


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
