"""The rows of a search in parts that share no text and no group: some to learn from, some to choose
by, some to measure with at the end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medtask.errors import InputError, UsageError
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.task import Task
from medtask.training.training_data import RowSelection, TrainingExample, build_training_data

MAX_TEST_ROWS = (
    1000  # rows: an interval of a few hundredths, and more would take its time from the search
)
MIN_PART_ROWS = 8  # rows of any part, below which nothing can be told


@dataclass(frozen=True, slots=True)
class SearchData:
    """``train``: what examples and reflections are taken from. ``validation``: what candidates are
    chosen by. ``test``: what no search ever sees; the task as it was and the result are asked about
    these rows, once each. All in an order by chance. ``notes``: what was left out, and why.
    """

    task: Task
    train: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]
    test: tuple[TrainingExample, ...]
    notes: tuple[str, ...] = ()

    def to_training_table(self) -> Table:
        """All rows but those of the test, as a table to train on."""
        return read_table([example.record.fields for example in (*self.train, *self.validation)])


def build_search_data(
    task: Task,
    table: Table,
    *,
    test_share: float = 0.25,
    validation_share: float = 0.5,
    seed: int = 0,
) -> SearchData:
    """Divide a table's rows with gold. ``validation_share``: of what is not test.

    The task names the gold column. InputError where a part would have too few rows.
    """
    for name, share in (("test", test_share), ("validation", validation_share)):
        if not 0 < share < 1:
            raise UsageError(
                f"the share of {name} rows is {share:g}",
                fix="give a share between 0 and 1, such as 0.25",
            )
    whole = build_training_data(task, table, selection=RowSelection(test_share), seed=seed)
    rest = read_table([example.record.fields for example in whole.train]) if whole.train else table
    inner = build_training_data(task, rest, selection=RowSelection(validation_share), seed=seed + 1)
    train, validation = (
        _shuffle_examples(inner.train, seed),
        _shuffle_examples(inner.validation, seed),
    )
    search_data = SearchData(
        task,
        train,
        validation,
        _shuffle_examples(whole.validation, seed, MAX_TEST_ROWS),
        whole.notes,
    )
    for name in ("train", "validation", "test"):
        if len(rows := getattr(search_data, name)) < MIN_PART_ROWS:
            what = {
                "train": "to learn from",
                "validation": "to choose by",
                "test": "to measure with",
            }[name]
            fix = (
                f"give a table with more gold: {8 * MIN_PART_ROWS} rows at least, some hundreds "
                "to see "
                "small gains"
            )
            raise InputError(f"{len(rows)} rows {what} are too few for a search", fix=fix)
    return search_data


def _shuffle_examples(
    examples: Sequence[TrainingExample], seed: int, max_examples: int | None = None
) -> tuple[TrainingExample, ...]:
    """In an order by chance, so that the first so many of them are a sample: tables are often
    sorted by what gold says.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    return tuple(
        rng.sample(
            examples, min(len(examples), len(examples) if max_examples is None else max_examples)
        )
    )
