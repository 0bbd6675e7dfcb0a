"""How faults speak of what a user typed: in quotes, on one line, with the nearest right word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from medtask.tasks.text_cleaning import clean_text

MAX_LISTED_COLUMNS = 12


def format_inline(text: object, limit: int = 60) -> str:
    """The text fit for a terminal: one line, at most ``limit`` characters, nothing invisible."""
    line = " ".join(clean_text(str(text)).replace("\t", " ").split("\n"))
    return f"{line[: limit - 1]}…" if len(line) > limit else line


def quote_text(text: object) -> str:
    """The text in double quotes, fit for a terminal."""
    return f'"{format_inline(text)}"'


def format_columns(columns: Sequence[str]) -> str:
    """``case_id, procedure and 14 more``."""
    hidden = len(columns) - MAX_LISTED_COLUMNS
    return ", ".join(map(format_inline, columns[:MAX_LISTED_COLUMNS])) + (
        f" and {hidden} more" if hidden > 0 else ""
    )


def find_closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None if none is near."""
    by_fold = {known_word.casefold(): known_word for known_word in known}
    near = get_close_matches(word.casefold()[:200], by_fold, n=1)
    return by_fold[near[0]] if near else None


def format_suggestion(word: str, known: Iterable[str]) -> str:
    """`` - did you mean "labels"?``, or nothing."""
    suggestion = find_closest(word, known)
    return f" - did you mean {quote_text(suggestion)}?" if suggestion is not None else ""
