"""Lists and mappings in a cell's text: JSON, or Python literals."""

from __future__ import annotations

import ast
import json
import warnings

MAX_JSON_LENGTH = 1_000_000  # characters
MAX_LITERAL_LENGTH = 50_000  # characters: Python's parser needs some hundred bytes for each


def parse_container(value: object) -> list[object] | dict[object, object] | None:
    """The list or mapping that a cell is, or whose text it holds; None for anything else.

    Text is read as JSON, or else as a Python literal ({'A': 'five'}), which can name values and do
    nothing.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if not (text and text[0] + text[-1] in ("[]", "{}", "()")):
        return None
    read = _parse_json(text) if len(text) <= MAX_JSON_LENGTH else None
    if read is None and len(text) <= MAX_LITERAL_LENGTH:
        read = _parse_literal(text)
    return (
        list(read) if isinstance(read, tuple) else read if isinstance(read, list | dict) else None
    )


def _parse_json(text: str) -> object:
    try:
        # NaN and Infinity are not JSON: a blank cell of some table became one of them.
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _parse_literal(text: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" is no escape, says the parser, on the terminal
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
