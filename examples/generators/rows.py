"""Rows from fragments: in the wanted proportions, every fragment once before one is used again, no
text twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from generators.fragments import Row, StableRandom, normalize_text

F = TypeVar("F")
MakeRow = Callable[[str, F, StableRandom], Row]

MAX_ATTEMPTS = 400  # to write a row that is not there yet ...
MAX_FRAGMENT_ATTEMPTS = 20  # ... so many of them from the fragment whose turn it is


def draw_rows(
    seed: Sequence[str],
    shares: Mapping[str, int],
    fragments: Mapping[str, Sequence[F]],
    make_row: MakeRow[F],
    count: int,
    used_texts: set[str],
) -> Iterator[Row]:
    """``count`` rows in the proportions of ``shares``, none with a text of ``used_texts``, to which
    theirs are added.

    ``seed`` names example and split: the same one gives the same rows.
    """
    for label, rows in allocate_rows(shares, count).items():
        for number in range(rows):
            turn, index = divmod(number, len(fragments[label]))
            fragment = StableRandom(*seed, label, "turn", turn).shuffle(fragments[label])[index]
            row = _draw_new_row(
                seed, label, number, fragment, fragments[label], make_row, used_texts
            )
            used_texts.add(normalize_text(row["text"]))
            yield row


def _draw_new_row(
    seed: Sequence[str],
    label: str,
    number: int,
    fragment: F,
    fragments: Sequence[F],
    make_row: MakeRow[F],
    used_texts: set[str],
) -> Row:
    for attempt in range(MAX_ATTEMPTS):
        rng = StableRandom(*seed, label, number, attempt)
        row = make_row(
            label, fragment if attempt < MAX_FRAGMENT_ATTEMPTS else rng.choose(fragments), rng
        )
        if normalize_text(row["text"]) not in used_texts:
            return row
    raise SystemExit(
        f"error: the {seed[-1]} fragments of {label!r} give no more texts.\n  fix: ask for fewer "
        "--rows, or add fragments."
    )


def allocate_rows(shares: Mapping[str, int], count: int) -> dict[str, int]:
    """How many of ``count`` rows each label gets: its share, rounded so that the sum is right."""
    exact = {label: count * share / sum(shares.values()) for label, share in shares.items()}
    rows = {label: int(value) for label, value in exact.items()}
    for label in sorted(exact, key=lambda label: rows[label] - exact[label])[
        : count - sum(rows.values())
    ]:
        rows[label] += 1
    return rows


def repeat_dirty_rows(entries: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Dirty rows as they are written, each so many ``times``; ``repeat``: how often its text is
    said over, for one that is too long.
    """
    for entry in entries:
        row = {name: str(value) for name, value in entry.items() if name not in ("times", "repeat")}
        yield from [{**row, "text": row["text"] * entry.get("repeat", 1)}] * entry.get("times", 1)
