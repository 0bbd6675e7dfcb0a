"""What was asked, found out from answers that another tool wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medtask.errors import TableError, UsageError
from medtask.tasks.containers import read_container
from medtask.tasks.facts import bare_task
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import read_cell
from medtask.tasks.task import Task

SHARE = "p:"  # a column p:LABEL holds a label's probability
KINDS = ("label", "labels", "answer", "fields")
MOST_LABELS = 2000
LONGEST_LABEL = 120  # characters: what is longer is a text


@dataclass(slots=True)
class Clues:
    """What a table's cells show, gathered in one pass. ``names``: different answers and gold
    values, up to 2,001 of them.
    """

    names: dict[str, None] = field(default_factory=dict)
    parts: dict[str, None] = field(default_factory=dict)
    rows: int = 0
    lists: int = 0
    objects: int = 0
    longest: int = 0

    def add(self, cell: object) -> None:
        text = read_cell(cell)
        if text is None:
            return
        self.rows += 1
        held = read_container(cell)
        self.lists += isinstance(held, list)
        self.objects += isinstance(held, dict)
        self.longest = max(self.longest, len(text))
        parts = [read_cell(item) for item in held] if isinstance(held, list) else text.split("; ")
        if len(self.names) <= MOST_LABELS:
            self.names.setdefault(text)
            self.parts.update(dict.fromkeys(part for part in parts if part))


def guess_task(
    name: str,
    cells: Iterable[tuple[object, object]],
    shares: Iterable[str],
    sums_to_one: bool,
    kind: str | None,
) -> Task:
    """The question that answers (``cells``: answer and gold of every row) are taken for.

    ``shares``: the names of the labels that have probabilities; where those sum to 1, one label was
    chosen. ``kind`` settles what else is found out. UsageError for a kind that takes more than a
    table to know.
    """
    if kind is not None and kind not in KINDS:
        fix = f"choose one of {', '.join(KINDS)}, or name the task with --task"
        raise UsageError(f"a table alone does not make answers of the kind {quote(kind)}", fix=fix)
    clues = Clues()
    for pair in cells:
        for cell in pair:
            clues.add(cell)
    named = tuple(shares)
    kind = kind or _guess_kind(clues, named, sums_to_one)
    found = clues.parts if kind == "labels" else clues.names
    labels = (*named, *sorted(found.keys() - set(named))) if kind in ("label", "labels") else ()
    if len(labels) > MOST_LABELS:
        fix = "say --kind answer if these are texts, or name the task with --task"
        raise UsageError(f"there are more than {MOST_LABELS:,} different labels", fix=fix)
    return bare_task(name, kind, labels)


def _guess_kind(clues: Clues, shares: tuple[str, ...], sums_to_one: bool) -> str:
    if shares:
        return "label" if sums_to_one else "labels"
    if 2 * clues.objects > clues.rows:  # a model's object may be broken
        return "fields"
    if clues.lists:
        return "labels"
    if len(clues.names) > MOST_LABELS or clues.longest > LONGEST_LABEL:
        return "answer"
    return "label" if len(clues.names) <= max(20, clues.rows / 4) else "answer"


def read_share(cell: object, column: str, row: int) -> float | None:
    """A probability, None where the cell is blank; TableError where it is something else."""
    text = read_cell(cell)
    if text is None or text.lower() in ("nan", "null", "none"):
        return None
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1 + 1e-6:
        fix = "write probabilities as numbers from 0 to 1, or leave the cell blank"
        raise TableError(f"row {row}: {quote(column)} holds no probability", fix=fix)
    return min(1.0, share)


def read_shares(cells: Mapping[str, object], column: str, row: int) -> dict[str, float] | None:
    """Probabilities by outcome: a column that holds mappings, or columns named p:LABEL; None where
    the row has none.
    """
    given = cells.get(column)
    if isinstance(given, str):
        given = read_container(given)
    if not isinstance(given, Mapping):
        if column != "probabilities":
            return None
        given = {
            name.removeprefix(SHARE): cell for name, cell in cells.items() if name.startswith(SHARE)
        }
    found = {str(name): read_share(cell, f"{SHARE}{name}", row) for name, cell in given.items()}
    return {name: share for name, share in found.items() if share is not None} or None
