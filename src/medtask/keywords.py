"""Keywords and regular expressions that stand for labels, matched within a time limit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import regex

from medtask.unicode_text import normalize_text, split_words

MAX_PATTERN_LENGTH = 1_000  # characters
MATCH_SECONDS = 20.0  # for all texts and keywords together


@dataclass(frozen=True, slots=True)
class Keyword:
    """A compiled keyword; see `compile_keyword`.

    Attributes:
        source: The keyword as it was written.
        words: Its words, with blanks where a word has to begin or end; "" for a pattern.
        pattern: The compiled regular expression; None for words.
    """

    source: str
    words: str = ""
    pattern: regex.Pattern[str] | None = None


def compile_keyword(source: str) -> Keyword:
    """Compile words ("wound infection"), parts of words ("infect*", "*itis") or "/a pattern/".

    Words match whole words in every spelling of case and Unicode form. A pattern is a regular
    expression that is searched in the text, without regard to case.

    Raises:
        ValueError: The keyword has no word, or the pattern is not valid.
    """
    if len(source) > 2 and source.startswith("/") and source.endswith("/"):
        if len(source) > MAX_PATTERN_LENGTH:
            raise ValueError(f"is longer than {MAX_PATTERN_LENGTH:,} characters")
        try:
            return Keyword(source, pattern=regex.compile(source[1:-1], regex.IGNORECASE))
        except (regex.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a valid regular expression ({error})") from None
    words = " ".join(split_words(source))
    if not words:
        raise ValueError("has no word")
    start = "" if source.strip().startswith("*") else " "
    return Keyword(source, start + words + ("" if source.strip().endswith("*") else " "))


def match_keywords(
    texts: Sequence[str],
    keywords: Mapping[str, Sequence[str]],
    seconds: float = MATCH_SECONDS,
) -> list[tuple[str, ...]]:
    """The labels of each text by their keywords, those with most of them first.

    Args:
        texts: The texts.
        keywords: The keywords of each label. Labels with equally many keep this order.
        seconds: The time for all texts and keywords together.

    Raises:
        ValueError: A keyword is not valid.
        TimeoutError: The keywords take longer; the message names one.
    """
    compiled = {
        label: [compile_keyword(source) for source in sources]
        for label, sources in keywords.items()
    }
    deadline = time.monotonic() + seconds
    found = []
    for text in texts:
        words = f" {' '.join(split_words(text))} "
        normalized = normalize_text(text)
        counts = {
            label: sum(_is_in(keyword, words, normalized, deadline) for keyword in listed)
            for label, listed in compiled.items()
        }
        matched = [label for label, count in counts.items() if count]
        found.append(tuple(sorted(matched, key=counts.__getitem__, reverse=True)))
    return found


def _is_in(keyword: Keyword, words: str, text: str, deadline: float) -> bool:
    left = deadline - time.monotonic()
    with suppress(TimeoutError):
        if left > 0 and keyword.pattern is None:
            return keyword.words in words
        if left > 0 and keyword.pattern is not None:
            return keyword.pattern.search(text, timeout=left) is not None
    raise TimeoutError(f"{keyword.source} takes too long")
