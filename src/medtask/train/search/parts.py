"""The rows of a search in parts that share no text and no group: some to learn from, some to choose
by, some to measure with at the end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medtask.data.read import read_table
from medtask.data.table import Table
from medtask.errors import InputError, UsageError
from medtask.tasks.task import Task
from medtask.train.material import Lesson, Selection, gather_material

MOST_TEST = (
    1000  # rows: an interval of a few hundredths, and more would take its time from the search
)
LEAST = 8  # rows of any part, below which nothing can be told


@dataclass(frozen=True, slots=True)
class Parts:
    """``train``: what examples and reflections are taken from. ``validation``: what candidates are
    chosen by. ``test``: what no search ever sees; the task as it was and the result are asked about
    these rows, once each. All in an order by chance. ``notes``: what was left out, and why.
    """

    task: Task
    train: tuple[Lesson, ...]
    validation: tuple[Lesson, ...]
    test: tuple[Lesson, ...]
    notes: tuple[str, ...] = ()

    def learnable(self) -> Table:
        """All rows but those of the test, as a table to train on."""
        return read_table([lesson.record.fields for lesson in (*self.train, *self.validation)])


def divide_rows(
    task: Task,
    table: Table,
    *,
    test_share: float = 0.25,
    validation_share: float = 0.5,
    seed: int = 0,
) -> Parts:
    """Divide a table's rows with gold. ``validation_share``: of what is not test.

    The task names the gold column. InputError where a part would have too few rows.
    """
    for name, share in (("test", test_share), ("validation", validation_share)):
        if not 0 < share < 1:
            raise UsageError(
                f"the share of {name} rows is {share:g}",
                fix="give a share between 0 and 1, such as 0.25",
            )
    whole = gather_material(task, table, selection=Selection(test_share), seed=seed)
    rest = read_table([lesson.record.fields for lesson in whole.train]) if whole.train else table
    inner = gather_material(task, rest, selection=Selection(validation_share), seed=seed + 1)
    train, validation = _shuffle(inner.train, seed), _shuffle(inner.validation, seed)
    parts = Parts(task, train, validation, _shuffle(whole.validation, seed, MOST_TEST), whole.notes)
    for name in ("train", "validation", "test"):
        if len(rows := getattr(parts, name)) < LEAST:
            what = {
                "train": "to learn from",
                "validation": "to choose by",
                "test": "to measure with",
            }[name]
            fix = (
                f"give a table with more gold: {8 * LEAST} rows at least, some hundreds to see "
                "small gains"
            )
            raise InputError(f"{len(rows)} rows {what} are too few for a search", fix=fix)
    return parts


def _shuffle(lessons: Sequence[Lesson], seed: int, most: int | None = None) -> tuple[Lesson, ...]:
    """In an order by chance, so that the first so many of them are a sample: tables are often
    sorted by what gold says.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    return tuple(chance.sample(lessons, min(len(lessons), len(lessons) if most is None else most)))
