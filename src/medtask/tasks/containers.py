"""Lists and mappings in the text of a cell, as JSON or Python literals."""

from __future__ import annotations

import ast
import json
import warnings

MAX_JSON_LENGTH = 1_000_000  # characters
MAX_LITERAL_LENGTH = 50_000  # characters: Python's parser needs some hundred bytes per character


def parse_container(value: object) -> list[object] | dict[object, object] | None:
    """The list or mapping in a cell, or in its text; None for anything else.

    Text is read as JSON, or else as a Python literal such as {'A': 'five'}; no code is run.
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
        # NaN and Infinity are not valid JSON; they come from blank cells.
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _parse_literal(text: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns about invalid escapes such as "\d"
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
