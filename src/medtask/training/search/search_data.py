"""Training, validation and test rows of a search, which share no text and no group."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medtask.errors import InputError, UsageError
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.task import Task
from medtask.training.training_data import RowSelection, TrainingExample, build_training_data

MAX_TEST_ROWS = 1000  # enough for an interval of a few hundredths
MIN_PART_ROWS = 8
_PURPOSES = {"train": "to learn from", "validation": "to choose by", "test": "to measure on"}


@dataclass(frozen=True, slots=True)
class SearchData:
    """The rows of a search, in random order.

    Attributes:
        task: The task; it names the gold column.
        train: Rows for worked examples and for reflections.
        validation: Rows by which candidates are chosen.
        test: Rows not used by the search; the original task and the result answer them once.
        digest: The hash of the table.
        notes: What was left out, and why.
    """

    task: Task
    train: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]
    test: tuple[TrainingExample, ...]
    notes: tuple[str, ...] = ()
    digest: str = ""

    def to_training_table(self) -> Table:
        """All rows except the test rows, as a table."""
        return read_table([example.record.fields for example in (*self.train, *self.validation)])

    def count_rows(self) -> dict[str, int]:
        """The number of rows of each part."""
        return {name: len(getattr(self, name)) for name in _PURPOSES}


def build_search_data(
    task: Task,
    table: Table,
    *,
    test_share: float = 0.25,
    validation_share: float = 0.5,
    seed: int = 0,
) -> SearchData:
    """Split a table's rows with gold into three parts.

    Args:
        task: The task; it names the gold column.
        table: The rows.
        test_share: The share of test rows.
        validation_share: The share of validation rows among the rows that are not test rows.
        seed: Seed of the splits and of the order of rows.

    Raises:
        UsageError: A share is not between 0 and 0.5.
        InputError: A part has too few rows.
    """
    for name, share in (("test", test_share), ("validation", validation_share)):
        if not 0 < share <= 0.5:
            raise UsageError(
                f"{share:g} is not a valid share of {name} rows",
                fix="give a share above 0 and up to 0.5, such as 0.25",
            )
    whole = build_training_data(task, table, selection=RowSelection(test_share), seed=seed)
    rest = read_table([example.record.fields for example in whole.train]) if whole.train else table
    inner = build_training_data(task, rest, selection=RowSelection(validation_share), seed=seed + 1)
    train = _shuffle_examples(inner.train, seed)
    validation = _shuffle_examples(inner.validation, seed)
    search_data = SearchData(
        task,
        train,
        validation,
        _shuffle_examples(whole.validation, seed, MAX_TEST_ROWS),
        whole.notes,
        whole.sha256,
    )
    for name, count in search_data.count_rows().items():
        if count < MIN_PART_ROWS:
            raise InputError(
                f"{count} rows {_PURPOSES[name]} are too few for a search",
                fix=(
                    f"give a table with more gold: at least {8 * MIN_PART_ROWS} rows, and some "
                    "hundreds to see small gains"
                ),
            )
    return search_data


def _shuffle_examples(
    examples: Sequence[TrainingExample], seed: int, max_examples: int | None = None
) -> tuple[TrainingExample, ...]:
    """Shuffle examples, so that the first rows are a sample: tables are often sorted by gold."""
    rng = random.Random(seed)  # noqa: S311 - not for security
    return tuple(
        rng.sample(
            examples, min(len(examples), len(examples) if max_examples is None else max_examples)
        )
    )
