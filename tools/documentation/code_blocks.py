"""Code blocks of Markdown pages, and the command lines in them.

A comment before a block says what a test does with it:

    <!-- not run: REASON -->     its command lines are parsed and not run
    <!-- file: PATH -->          its text is written to this file
    <!-- data: NAME, NAME -->    (anywhere in a page) tables and tasks that the page needs

Without a comment a `bash` or `python` block is run. Other blocks are output, or a synopsis.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<comment>[^\n]*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n|\n(?= {4}))+")
_DATA = re.compile(r"<!-- data: ([\w., /-]+) -->")


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block: its language, text, the comment before it, and its line in the page."""

    language: str
    text: str
    comment: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the text is written to."""
        return self.comment.removeprefix("file: ") if self.comment.startswith("file: ") else None

    @property
    def reason_not_run(self) -> str | None:
        """Why the block is not run."""
        head = "not run: "
        return self.comment.removeprefix(head) if self.comment.startswith(head) else None

    @property
    def is_run(self) -> bool:
        return self.language in {"bash", "python"} and not self.comment


def read_blocks(page: Path) -> list[CodeBlock]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        CodeBlock(
            match["language"],
            re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            (match["comment"] or "").strip(),
            text.count("\n", 0, match.start("text")),
        )
        for match in _FENCE.finditer(text)
    ]


def read_data_names(page: Path) -> list[str]:
    """The tables that a page needs."""
    return [
        name.strip()
        for match in _DATA.finditer(page.read_text("utf-8"))
        for name in match[1].split(",")
    ]


def list_command_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every line of a block that begins with ``medtask``."""
    text = page.read_text("utf-8")
    found = [(match.start("text"), match["text"]) for match in _FENCE.finditer(text)]
    outside = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found += [(match.start(), match[0]) for match in _INDENTED.finditer(outside)]
    for start, block in found:
        first = text.count("\n", 0, start) + 1
        for number, line in enumerate(join_lines(block)):
            if re.match(r"\s*(\$ )?([A-Z_]+=\S+ )*medtask ", line):
                yield first + number, line.strip().removeprefix("$ ")


def join_lines(block: str) -> list[str]:
    """The lines of a block; one that ends with a backslash is joined with the next."""
    return block.replace("\\\n", " ").splitlines()


def split_command(line: str) -> list[str]:
    """The arguments of a command line, without comments and marks of optional parts."""
    plain = re.sub(r"\[(?=[A-Z-])|(?<=[A-Z0-9x])\]", "", line)
    words = shlex.split(plain, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    for stop in ("|", ">", ";", "&&", "2>", "<"):
        words = words[: words.index(stop)] if stop in words else words
    return words
