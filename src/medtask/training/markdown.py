"""Escaping of untrusted texts in Markdown, so that they are not interpreted as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medtask.display import format_name

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&$^]|!(?=\\?\[)")
_LINKED = re.compile(r"://|(?<=\bwww)\.|@")
_LIST = re.compile(r"^(=|[-+](?=\s|$|-)|\d+(?=[.)](?:\s|$)))")
_PIPE = re.compile(r"(?<!\\)\|")


def escape_markdown(text: object, limit: int = 200) -> str:
    """Escape a text for Markdown: one short line without markup, links or control characters."""
    shown = format_name(" ".join(str(text).split()), limit)
    escaped = _LINKED.sub(
        lambda found: "".join(f"&#{ord(char)};" for char in found[0]),
        _SPECIAL.sub(lambda found: "\\" + found[0], shown),
    )
    # At the start of a line these would begin a list or a heading.
    return _LIST.sub(
        lambda found: f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}", escaped
    )


def format_code(text: object) -> str:
    """Text as inline code, with any backticks in it; a dash for an empty text."""
    shown = format_name(" ".join(str(text).split()), 4000)
    if not shown:
        return "–"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    edge = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def write_fence(lines: Sequence[str], language: str = "") -> str:
    """A fenced code block; ``language`` selects syntax highlighting."""
    shown = [format_name(line, 4000) for line in lines]
    fence = "`" * max(
        3, 1 + max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    )
    return "\n".join([f"{fence}{language}", *shown, fence])


def format_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], align_right: bool = True
) -> str:
    """A table of Markdown cells. ``align_right`` applies to all columns but the first."""
    rule = ["---", *(["---:" if align_right else "---"] * (len(head) - 1))]
    # Tables are parsed before inline code, so pipes inside code also split cells.
    lines = [[_PIPE.sub(r"\|", cell) for cell in cells] for cells in [head, rule, *rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
