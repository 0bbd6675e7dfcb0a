"""The gate: rows that are rejected with a status before they reach a model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medtask.display import format_count
from medtask.records import Status
from medtask.tasks.example_selection import find_max_similarity
from medtask.tasks.task import Gate
from medtask.unicode_text import split_words

# Statuses of rows that no model is asked about. Every pass gives a row the same one of them.
GATE_STATUSES = frozenset({Status.EMPTY_INPUT, Status.NOT_TEXT, Status.TOO_SHORT, Status.NOVEL})
MIN_ENCODED_RUN = 200  # characters without whitespace: longer than any word or link

_ENCODED_RUN = re.compile(rf"[A-Za-z0-9+/=_-]{{{MIN_ENCODED_RUN},}}")
_UNREADABLE_CHARACTER = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufffd\ud800-\udfff]")


def find_rejection(
    gate: Gate, raw: str, text: str, example_texts: Sequence[str] = ()
) -> tuple[Status, str] | None:
    """Why a record is rejected, as status and reason; None if it is accepted.

    Args:
        gate: The gate.
        raw: The rendered input.
        text: The same input, cleaned and not blank.
        example_texts: The texts of the examples, for ``gate.novelty``.
    """
    if reason := _find_not_text_reason(raw, text):
        return Status.NOT_TEXT, reason
    if gate.min_words > 1 and (words := len(split_words(text, gate.min_words))) < gate.min_words:
        return (
            Status.TOO_SHORT,
            f"{format_count(words, 'word')}, and the task requires {gate.min_words} or more",
        )
    if (
        gate.novelty is not None
        and (similarity := find_max_similarity(tuple(example_texts), text)) < gate.novelty
    ):
        return (
            Status.NOVEL,
            f"the similarity to the nearest example is {similarity:.2f}, below {gate.novelty:g}",
        )
    return None


def _find_not_text_reason(raw: str, text: str) -> str | None:
    if not any(map(str.isalnum, text)):
        return "the input has neither a letter nor a digit"
    # Broken characters are missing in the clean text or replaced by U+FFFD, so most rows need no
    # search.
    broken = (
        len(_UNREADABLE_CHARACTER.findall(raw))
        if len(text) * 2 < len(raw) or "\ufffd" in text
        else 0
    )
    if broken * 2 > len(raw):
        return f"{broken:,} of the input's {len(raw):,} characters are control characters or broken"
    runs = [
        run
        for word in text.split()
        if len(word) >= MIN_ENCODED_RUN
        for run in _ENCODED_RUN.findall(word)
    ]
    # Only runs with upper case, lower case and digits count; DNA sequences and drawn lines do not.
    encoded = sum(
        len(run) for run in runs if not (run.islower() or run.isupper()) and re.search(r"\d", run)
    )
    if encoded * 2 > len(text):
        return f"{encoded:,} of the input's {len(text):,} characters are an encoded file"
    return None
