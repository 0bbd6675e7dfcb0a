"""Lists and mappings in the text of a cell, as JSON, Python literals or NumPy arrays."""

from __future__ import annotations

import ast
import json
import re
import warnings

MAX_JSON_LENGTH = 1_000_000  # characters
MAX_LITERAL_LENGTH = 50_000  # characters: Python's parser needs some hundred bytes per character
_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_ARRAY_TEXT = re.compile(_TEXT, re.DOTALL)
# str(array) has no commas: Python would join the texts ['a' 'b'] to one.
_TEXT_ARRAY = re.compile(rf"\[\s*{_TEXT}(?:\s+{_TEXT})+\s*\]", re.DOTALL)


def parse_container(value: object) -> list[object] | dict[object, object] | None:
    """The list or mapping in a cell, or in its text; None for anything else.

    Text is read as JSON, or else as a Python literal such as {'A': 'five'}, in which there may be
    NumPy arrays, as pandas writes them to CSV; no code is run.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    is_array = text.startswith("array([") and text.endswith(")")
    if not (is_array or (text and text[0] + text[-1] in ("[]", "{}", "()"))):
        return None
    read = _parse_json(text) if len(text) <= MAX_JSON_LENGTH else None
    if read is None and len(text) <= MAX_LITERAL_LENGTH:
        read = _parse_literal(text)
    if isinstance(read, set):  # its order depends on the process
        return sorted(read, key=str)
    return (
        list(read) if isinstance(read, tuple | list) else read if isinstance(read, dict) else None
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
            if _TEXT_ARRAY.fullmatch(text):
                return [ast.literal_eval(found[0]) for found in _ARRAY_TEXT.finditer(text)]
            return ast.literal_eval(_ArrayAsList().visit(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


class _ArrayAsList(ast.NodeTransformer):
    """Replaces ``array([...], dtype=object)``, the repr of a NumPy array, by its list."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array"
        return node.args[0] if is_array and len(node.args) == 1 else node
