"""Markdown that several generated pages need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; vertical bars and line breaks in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines) + "\n"


def write_code(text: str) -> str:
    """Text as inline code; "" for an empty text."""
    return f"`{text}`" if text else ""


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
