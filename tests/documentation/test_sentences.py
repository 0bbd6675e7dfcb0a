"""Sentences of the documentation are short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_WORDS = 29
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    ROOT / "examples" / "README.md",
    *(
        page
        for page in sorted((ROOT / "examples").glob("*/README.md"))
        if not (page.parent / "medtask.json").exists()  # a model card, which medtask writes
    ),
]
# Paragraphs, list items, headings and rows of tables.
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\n(?=[#|])|(?<=\n)(?=#)")
HEADING = re.compile(r"^(#+ [^\n]*)\n", re.MULTILINE)
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
END = re.compile(r"""(?<=[.!?:])["')*]*\s+(?=["'(*]*(?:[A-Z0-9]|medtask\b))""")


def list_sentences(text: str) -> Iterator[str]:
    """The sentences of a page; code counts as one word."""
    text = HEADING.sub(r"\1\n\n", re.sub(r"<!--.*?-->", "", FENCE.sub("\n\n", text)))
    for block in BLOCK.split(text):
        if block.startswith("    "):
            continue
        cells = re.split(r"(?<!\\)\|", block) if block.lstrip().startswith("|") else [block]
        for cell in cells:
            plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "CODE", cell))
            yield from END.split(plain)


def count_words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_is_longer_than_29_words(page: Path) -> None:
    found = {" ".join(one.split()): count_words(one) for one in list_sentences(page.read_text())}
    long = [f"{count}: {text}" for text, count in found.items() if count > MAX_WORDS]
    assert not long, "\n".join(long)


def test_words_of_a_long_sentence_are_counted() -> None:
    long = " ".join(["Word"] + ["word"] * 29)
    sentences = list(list_sentences(f"# Title\nShort. {long}.\n\n- {long}\n"))
    assert [count_words(one) for one in sentences if one.strip()] == [1, 1, 30, 30]
