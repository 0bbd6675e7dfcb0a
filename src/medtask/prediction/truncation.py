"""Sentences of a text, and cutting of truncated model output at the end of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from medtask.unicode_text import is_unspaced

_SENTENCE_END = re.compile(r"(?<![.!?…؟।])[.!?…؟।]+[\"'”’»)\]]*(?=\s|$)|[。！？]")
_WORD_BEFORE = re.compile(r"[\w.]*$")
_ABBREVIATIONS = frozenset(
    {
        "dr",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "vs",
        "cf",
        "ca",
        "approx",
        "no",
        "fig",
        "e.g",
        "i.e",
        "etc",
    }
)


def cut_at_sentence(text: str) -> str:
    """The text up to the end of its last complete sentence, or else its last complete word.

    This is for text that was stopped by a limit. A line that is followed by another one is
    complete.
    """
    sentence = max(
        (found.end() for found in _SENTENCE_END.finditer(text) if _is_sentence_end(text, found)),
        default=0,
    )
    line = text.rstrip("\n").rfind("\n")
    end = max(sentence, line if line > 0 and text[:line].strip() else 0)
    if not end and is_unspaced(text.rstrip()[-1:]):
        return text.strip()  # each letter is a word
    return (text[:end] if end else text.rpartition(" ")[0]).strip()


def find_sentences(text: str) -> Iterator[tuple[int, int]]:
    """The start and the end of each sentence; a line break ends one."""
    stops = {found.end() for found in _SENTENCE_END.finditer(text) if _is_sentence_end(text, found)}
    breaks = {place + 1 for place, character in enumerate(text) if character == "\n"}
    yield from pairwise(sorted({0, *stops, *breaks, len(text)}))


def _is_sentence_end(text: str, stop: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence, and not "Dr." or an initial."""
    before = _WORD_BEFORE.search(text, max(0, stop.start() - 20), stop.start())
    word = before[0] if before else ""
    short = (len(word) == 1 and word.isalpha()) or (len(word) < 3 and word.isdigit())
    return stop[0] != "." or not (short or word.casefold() in _ABBREVIATIONS)
