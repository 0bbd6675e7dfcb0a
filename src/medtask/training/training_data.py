"""What is learnt from: rows with gold, cleaned, divided, and what was found out about them on
the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote, quote_names
from medtask.engines.model_metadata import PhiStatus
from medtask.errors import InputError, TableError, TaskFaults, UsageError
from medtask.tables.read import validate_table
from medtask.tables.table import Table
from medtask.tasks.rows import check_columns, read_records
from medtask.tasks.task import Fields, Task
from medtask.training.cleaning import CleaningReport, DropReason, clean_rows
from medtask.training.leakage import LeakageReport, QuestionIndex, find_leakage, index_questions
from medtask.training.near_duplicates import IndexArray, cluster_near_duplicates
from medtask.training.split import SplitReport, merge_equal_rows, select_validation_rows
from medtask.training.training_example import NO_LABEL, TrainingExample, has_labels, list_labels

__all__ = [
    "RowSelection",
    "TrainingData",
    "TrainingExample",
    "build_training_data",
    "describe_training_data",
    "determine_phi",
]

# With fewer, a tenth is not one row, and whatever is seen on the rows to stop by is chance.
# Anything worth using takes hundreds.
MIN_TRAINING_ROWS = 10


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Which rows of a table are learnt from. ``share``: of the rows, those that are set aside
    to stop by, where no table of its own is given for that. ``min_count``: labels with fewer
    rows are left out. ``cap``: no label has more rows.
    """

    share: float = 0.1
    min_count: int = 1
    cap: int | None = None

    def check(self, task: Task) -> None:
        """UsageError for numbers that cannot be, or that mean nothing for the task."""
        if not 0 < self.share <= 0.5:
            raise UsageError(
                f"a validation share of {self.share:g} cannot be",
                fix="give a share above 0 and up to 0.5, such as 0.1",
            )
        for name, number in (("min-count", self.min_count), ("cap", self.cap)):
            if number is not None and number < 1:
                raise UsageError(
                    f"{name} is {number}", fix=f"give {name} a number from 1 on, or leave it out"
                )
        if (self.min_count > 1 or self.cap is not None) and not has_labels(task):
            name = "min-count" if self.min_count > 1 else "cap"
            raise UsageError(
                f"{name} is about labels, and a task of kind {task.kind} has none",
                fix=f"leave {name} out",
            )


DEFAULT_SELECTION = RowSelection()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rows to learn from and rows to stop by, both in their table's order; divided here, they share
    no text and no group.

    ``source`` and ``sha256``: of the table; ``validation_...``: of the table that the rows to stop
    by come from, where that is one of its own. ``leakage``: what the two parts share.
    """

    task: Task
    train: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]
    source: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    cleaning: CleaningReport | None = None
    leakage: LeakageReport | None = None
    split: SplitReport | None = None
    validation_source: str = ""
    validation_sha256: str = ""
    validation_cleaning: CleaningReport | None = None


def build_training_data(
    task: Task,
    table: Table,
    *,
    gold_column: str | None = None,
    validation: Table | None = None,
    selection: RowSelection = DEFAULT_SELECTION,
    row_limit: int | None = None,
    seed: int = 0,
) -> TrainingData:
    """Clean the rows of a table that have gold, divide them, and look for what the two parts share.

    ``validation``: a table of rows to stop by; without it a share of the rows is set aside,
    group-safe and duplicate-safe: near duplicates stay on one side. ``row_limit``: of the table's
    first rows. ``seed``: decides which rows are set aside and which go above a cap; the order of
    the rows does not.

    UsageError for numbers that cannot be; TaskFaults and TableError for tables that cannot be asked
    about; InputError where there is nothing to learn: no gold, one label, too few rows, rows that
    all belong together.
    """
    selection.check(task)
    if row_limit is not None and row_limit < 1:
        raise UsageError(
            f"limit is {row_limit}", fix="give limit a number from 1 on, or leave it out"
        )
    gold = gold_column or task.gold_column
    if gold is None:
        raise InputError(
            "no column is named that holds gold to learn from",
            fix="name it with --gold, or under `gold:` in the task",
        )
    task = replace(task, gold_column=gold)
    examples, cleaning = _read_examples(task, table, gold, selection, row_limit, seed)
    _check_learnable(task, examples, cleaning, table, gold, selection.min_count)
    if validation is None:
        questions = index_questions(task, examples)
        is_validation, divided = _split_examples(task, questions, selection.share, seed)
        train, aside = (
            _select_examples(questions, ~is_validation),
            _select_examples(questions, is_validation),
        )
        return TrainingData(
            task,
            train,
            aside,
            table.source,
            table.digest(),
            _list_notes(task, train, aside, divided),
            cleaning,
            find_leakage(questions, is_validation),
            divided,
        )
    aside, found = _read_examples(task, validation, gold, DEFAULT_SELECTION, None, seed)
    if not aside:
        fix = "give a table whose gold and input columns are filled in"
        raise InputError(
            f"{validation.source} has no row to validate by: {_describe_dropped_rows(found)}",
            fix=fix,
        )
    questions = index_questions(task, (*examples, *aside))
    leaks = find_leakage(questions, questions.positions >= len(examples))
    divided = SplitReport(
        has_own_table=True, share=len(aside) / (len(examples) + len(aside)), seed=seed
    )
    return TrainingData(
        task,
        examples,
        aside,
        table.source,
        table.digest(),
        _list_notes(task, examples, aside, divided),
        cleaning,
        leaks,
        divided,
        validation.source,
        validation.digest(),
        found,
    )


def describe_training_data(data: TrainingData) -> list[str]:
    """How many rows each part has, and how many there are of each label."""
    search_data = (("to learn from", data.train), ("to validate by", data.validation))
    return [
        (
            f"{len(examples):,} row{'s' * (len(examples) != 1)} "
            f"{what}{_describe_label_counts(data.task, examples)}"
        )
        for what, examples in search_data
    ]


def determine_phi(task: Task) -> PhiStatus:
    """Whether the task's table holds texts of patients; "unknown" where its file does not say."""
    if task.phi is None:
        return "unknown"
    return "yes" if task.phi else "no"


def _read_examples(
    task: Task, table: Table, gold: str, selection: RowSelection, row_limit: int | None, seed: int
) -> tuple[tuple[TrainingExample, ...], CleaningReport]:
    if faults := check_columns(task, table.columns, gold_column=gold):
        raise TaskFaults(str(task.source or task.name), faults)
    if not validate_table(table, task.id_column).rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    records = islice(read_records(task, table, gold_column=gold), row_limit)
    return clean_rows(task, records, min_count=selection.min_count, cap=selection.cap, seed=seed)


def _check_learnable(
    task: Task,
    examples: Sequence[TrainingExample],
    cleaning: CleaningReport,
    table: Table,
    gold: str,
    min_count: int,
) -> None:
    """InputError where nothing can be learnt from what is left."""
    counts = cleaning.dropped_counts
    if counts.get(DropReason.NO_GOLD, 0) == cleaning.rows:
        raise InputError(
            f"no row of {table.source} has gold in the column {quote(gold)}",
            fix="name the right column with --gold",
        )
    if not examples and counts.get(DropReason.UNKNOWN_GOLD):
        first = next(one for one in cleaning.dropped if one.reason is DropReason.UNKNOWN_GOLD)
        fix = "name the right column with --gold, or write gold as the task has it"
        raise InputError(
            f"no gold in the column {quote(gold)} is an answer of the task (row "
            f"{first.row:,}: "
            f"{first.explanation})",
            fix=fix,
        )
    if len(examples) < MIN_TRAINING_ROWS:
        fix = (
            f"give at least {MIN_TRAINING_ROWS} rows with a text and gold; some hundreds are where "
            "training begins to pay"
        )
        fix = (
            f"lower --min-count (it is {min_count:,}), or {fix}"
            if counts.get(DropReason.RARE_LABEL)
            else fix
        )
        raise InputError(
            f"{len(examples)} row{'s' * (len(examples) != 1)} to learn from are too few: "
            f"{_describe_dropped_rows(cleaning)}",
            fix=fix,
        )
    gold_names = {list_labels(task, example.record.gold) for example in examples}
    if has_labels(task) and len(gold_names) == 1:
        (only,) = gold_names
        name = quote_names(only) if only != (NO_LABEL,) else "no label"
        fix = "add rows with other gold"
        fix = (
            f"lower --min-count (it is {min_count:,}), or {fix}"
            if counts.get(DropReason.RARE_LABEL)
            else fix
        )
        raise InputError(
            f"{name} is the gold of all {len(examples):,} rows to learn from: there is nothing to "
            "tell apart",
            fix=fix,
        )


def _describe_dropped_rows(cleaning: CleaningReport) -> str:
    """ "12 rows read: 9 no gold, 2 duplicate"."""
    reasons = ", ".join(f"{count:,} {why.value}" for why, count in cleaning.dropped_counts.items())
    return f"{cleaning.rows:,} row{'s' * (cleaning.rows != 1)} read" + (
        f", left out: {reasons}" if reasons else ""
    )


def _split_examples(
    task: Task, question_index: QuestionIndex, share: float, seed: int
) -> tuple[NDArray[np.bool_], SplitReport]:
    """Which of the questions are set aside. Groups and equal questions are never parted; near
    duplicates are where there is no other way to half the share.
    """
    examples, keys = question_index.examples, question_index.keys
    labels = [list_labels(task, example.record.gold) for example in examples]
    bound = merge_equal_rows(
        merge_equal_rows(np.arange(len(keys)), keys), [example.record.group for example in examples]
    )
    near_duplicates = cluster_near_duplicates(question_index.sketches)
    min_rows = share * len(keys) / 2
    for clusters, joined in (
        (
            merge_equal_rows(bound, near_duplicates.tolist()),
            _count_near_duplicates(near_duplicates),
        ),
        (bound, None),
    ):
        is_validation = select_validation_rows(keys, clusters, labels, share, seed)
        if is_validation is not None and (is_validation.sum() >= min_rows or joined is None):
            return is_validation, SplitReport(
                has_own_table=False, share=share, seed=seed, near_duplicate_rows=joined
            )
    raise InputError(
        f"the {len(keys):,} rows to learn from cannot be divided: "
        f"{_explain_failed_split(task, examples)}",
        fix="give rows to validate by in a table of their own: --validation TABLE",
    )


def _count_near_duplicates(clusters: IndexArray) -> int:
    """Rows that are near duplicates of others."""
    _, sizes = np.unique(clusters, return_counts=True)
    return int(sizes[sizes > 1].sum())


def _explain_failed_split(task: Task, examples: Sequence[TrainingExample]) -> str:
    groups = {example.record.group for example in examples}
    if task.group_column and len(groups) < len(examples):
        many = f"{len(groups):,} group{'s' * (len(groups) != 1)}"
        return (
            f"they belong to {many} of the column {quote(task.group_column)}, too few to share out"
        )
    return "no row can be spared of any label"


def _select_examples(
    question_index: QuestionIndex, mask: NDArray[np.bool_]
) -> tuple[TrainingExample, ...]:
    chosen = [
        example for example, yes in zip(question_index.examples, mask.tolist(), strict=True) if yes
    ]
    return tuple(sorted(chosen, key=lambda example: example.row))


def _list_notes(
    task: Task,
    train: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    split: SplitReport,
) -> tuple[str, ...]:
    """What people should know before they train."""
    notes = []
    train_counts, validation_counts = _count_labels(task, train), _count_labels(task, validation)
    if has_labels(task):
        names = [label.name for label in task.labels]
        if untaught := [name for name in names if not train_counts[name]]:
            notes.append(
                f"no row to learn from has the label{'s' * (len(untaught) > 1)} "
                f"{quote_names(untaught)}"
            )
        if untested := [
            name for name in names if train_counts[name] and not validation_counts[name]
        ]:
            notes.append(
                f"no row to validate by has the label{'s' * (len(untested) > 1)} "
                f"{quote_names(untested)}"
            )
        if unseen_count := sum(
            validation_counts[name]
            for name in validation_counts
            if name != NO_LABEL and not train_counts[name]
        ):
            have = "rows to validate by have" if unseen_count > 1 else "row to validate by has"
            notes.append(f"{unseen_count:,} {have} a label that no row to learn from has")
    elif task.kind == "choice" and len({str(example.record.gold) for example in train}) == 1:
        notes.append(
            "gold is the same option letter in every row: the letter is all that will be learnt; "
            "put the options in random order"
        )
    if split.near_duplicate_rows is None:
        notes.append(
            "too many rows are near duplicates of one another to keep them on one side: figures "
            "of validation will be too good"
        )
    if task.reasoning:
        notes.append(
            "the task lets the model think before it answers, and gold has no thoughts: the rows "
            "answer at once"
        )
    if isinstance(task.answer_spec, Fields) and task.answer_spec.quoted:
        notes.append(
            "the task asks for quotes beside fields, and gold has none: the rows answer without "
            "them"
        )
    return tuple(notes)


def _count_labels(task: Task, examples: Sequence[TrainingExample]) -> Counter[str]:
    return Counter(name for example in examples for name in list_labels(task, example.record.gold))


def _describe_label_counts(task: Task, examples: Sequence[TrainingExample]) -> str:
    """ ", 16 labels with 1 to 71 each"; nothing for kinds without labels."""
    counts = _count_labels(task, examples)
    none = counts.pop(NO_LABEL, 0)
    if not has_labels(task) or not counts:
        return ""
    least, most = min(counts.values()), max(counts.values())
    description = (
        f", {len(counts):,} label{'s' * (len(counts) != 1)} with "
        f"{f'{least:,} to ' * (least != most)}{most:,} rows each"
    )
    return description + (f", {none:,} with none of them" if none else "")
