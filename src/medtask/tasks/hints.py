"""How faults speak of what a user typed: in quotes, on one line, with the nearest right word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from medtask.tasks.hygiene import clean_text

LISTED_COLUMNS = 12


def show(text: object, limit: int = 60) -> str:
    """The text fit for a terminal: one line, at most ``limit`` characters, nothing invisible."""
    line = " ".join(clean_text(str(text)).replace("\t", " ").split("\n"))
    return f"{line[: limit - 1]}…" if len(line) > limit else line


def quote(text: object) -> str:
    """The text in double quotes, fit for a terminal."""
    return f'"{show(text)}"'


def list_columns(columns: Sequence[str]) -> str:
    """``case_id, procedure and 14 more``."""
    hidden = len(columns) - LISTED_COLUMNS
    return ", ".join(map(show, columns[:LISTED_COLUMNS])) + (
        f" and {hidden} more" if hidden > 0 else ""
    )


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None if none is near."""
    by_fold = {known_word.casefold(): known_word for known_word in known}
    near = get_close_matches(word.casefold()[:200], by_fold, n=1)
    return by_fold[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` - did you mean "labels"?``, or nothing."""
    meant = closest(word, known)
    return f" - did you mean {quote(meant)}?" if meant is not None else ""
