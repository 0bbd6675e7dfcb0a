"""Training and validation rows of a task: cleaned, split, and checked for leakage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote, quote_names
from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.model_metadata import combine_phi
from medtask.engines.registry import find_phi
from medtask.errors import InputError, TableError, UsageError
from medtask.runs.gold_table import find_chosen_rows
from medtask.tables.read import validate_table
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import read_gold_column, read_records, require_columns
from medtask.tasks.task import Task
from medtask.training.cleaning import CleaningReport, DropReason, clean_rows
from medtask.training.leakage import LeakageReport, QuestionIndex, find_leakage, index_questions
from medtask.training.split import SplitReport, split_questions
from medtask.training.training_example import NO_LABEL, TrainingExample, count_labels, list_labels

__all__ = [
    "RowSelection",
    "TrainingData",
    "TrainingExample",
    "build_training_data",
    "describe_training_data",
    "determine_model_phi",
    "determine_phi",
]

# With fewer rows a tenth is less than one row, and validation results are noise.
MIN_TRAINING_ROWS = 10


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Selection of the rows of a table.

    Attributes:
        share: The share of rows set aside for validation without a validation table.
        min_count: Labels with fewer rows are left out.
        cap: The maximum number of rows per label; None for no limit.
        max_validation: Validate on at most this number of the rows that were set aside; None for
            all. Training is faster, and the metrics are less precise.
    """

    share: float = 0.1
    min_count: int = 1
    cap: int | None = None
    max_validation: int | None = None

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values. ``max_validation`` is left out by default: trainings that were
        begun before it existed are resumed.
        """
        facts = asdict(self)
        if self.max_validation is None:
            del facts["max_validation"]
        return facts

    def check(self, task: Task) -> None:
        """Raise UsageError for values that are not valid in general or for this task."""
        if not 0 < self.share <= 0.5:
            raise UsageError(
                f"{self.share:g} is not a valid validation share",
                fix="give a share above 0 and up to 0.5, such as 0.1",
            )
        for name, number in (
            ("min-count", self.min_count),
            ("cap", self.cap),
            ("max-validation", self.max_validation),
        ):
            if number is not None and number < 1:
                raise UsageError(
                    f"{name} is {number}", fix=f"give {name} a number of 1 or more, or leave it out"
                )
        if (self.min_count > 1 or self.cap is not None) and not task.kind_spec.has_labels:
            name = "min-count" if self.min_count > 1 else "cap"
            raise UsageError(
                f"{name} applies to labels, and a task of kind {task.kind} has none",
                fix=f"leave {name} out",
            )


DEFAULT_SELECTION = RowSelection()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Training and validation rows, both in their table's order.

    Attributes:
        train: The rows to train on.
        validation: The rows that decide when training stops. Split from the same table, they
            share no text and no group with ``train``.
        source: The name of the table, and ``sha256`` of its content.
        notes: Notes for the user before training.
        leakage: Overlap of the two parts.
        validation_source: The name of the validation table, "" without one.
        injected: Copies of training rows with a planted instruction; see `injections`.
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
    injected: tuple[TrainingExample, ...] = ()

    def list_cleaning_notes(self) -> list[str]:
        """Lines about the rows that are left out, for each table."""
        notes = [] if self.cleaning is None else self.cleaning.list_notes()
        if self.validation_cleaning is not None:
            notes += [
                f"{self.validation_source}: {note}"
                for note in self.validation_cleaning.list_notes()
            ]
        return notes


def build_training_data(
    task: Task,
    table: Table,
    *,
    validation: Table | None = None,
    selection: RowSelection = DEFAULT_SELECTION,
    seed: int = 0,
) -> TrainingData:
    """Clean the rows of a table that have gold, split them, and look for leakage.

    Args:
        task: Names the gold column.
        table: The rows.
        validation: A table of validation rows. Without it, a share of the rows is set aside;
            groups and near duplicates stay together.
        selection: Which rows are used.
        seed: Decides which rows are set aside and which exceed a cap, independently of their
            order.

    Raises:
        UsageError: An option is not valid.
        TaskFaults, TableError: The task does not fit the table.
        InputError: There is nothing to learn: no gold, one label, too few rows, or rows that all
            belong together.
    """
    selection.check(task)
    if task.gold_column is None:
        raise InputError(
            "no gold column is named", fix="name it with --gold, or under `gold:` in the task"
        )
    examples, cleaning = _read_examples(task, table, selection, seed)
    _check_learnable(task, table, examples, cleaning, selection.min_count)
    data = TrainingData(task, examples, (), table.source, sha256=table.digest(), cleaning=cleaning)
    split_data = (
        _split_off_validation(data, selection.share, seed)
        if validation is None
        else _add_validation_table(data, validation, seed)
    )
    return _limit_validation(split_data, selection.max_validation, seed)


def sample_examples(
    examples: tuple[TrainingExample, ...], count: int, seed: int
) -> tuple[TrainingExample, ...]:
    """A random sample of at most ``count`` examples, in their order."""
    if len(examples) <= count:
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return tuple(examples[place] for place in sorted(chosen.tolist()))


def _limit_validation(data: TrainingData, max_validation: int | None, seed: int) -> TrainingData:
    """Keep a random sample of the validation rows, in their order; training rows are unchanged."""
    if max_validation is None or len(data.validation) <= max_validation:
        return data
    kept = sample_examples(data.validation, max_validation, seed)
    note = f"validated on {max_validation:,} of {len(data.validation):,} validation rows"
    return replace(data, validation=kept, notes=(*data.notes, note))


def _split_off_validation(data: TrainingData, share: float, seed: int) -> TrainingData:
    questions = index_questions(data.task, data.train)
    is_validation, split = split_questions(data.task, questions, share, seed)
    split_data = replace(
        data,
        train=_select_examples(questions, ~is_validation),
        validation=_select_examples(questions, is_validation),
        leakage=find_leakage(questions, is_validation),
        split=split,
    )
    return replace(split_data, notes=_list_notes(split_data, split))


def _add_validation_table(data: TrainingData, table: Table, seed: int) -> TrainingData:
    task, train = data.task, data.train
    validation, cleaning = _read_examples(task, table, DEFAULT_SELECTION, seed)
    if not validation:
        raise InputError(
            f"{table.source} has no row to validate on: {_describe_dropped_rows(cleaning)}",
            fix="give a table whose gold and input columns are filled in",
        )
    chosen = find_chosen_rows(one.record.fields for one in validation)
    others = tuple(one for number, one in enumerate(validation, 1) if number not in chosen)
    validation = others or validation
    questions = index_questions(task, (*train, *validation))
    share = len(validation) / (len(train) + len(validation))
    split = SplitReport(
        has_own_table=True,
        share=share,
        seed=seed,
        chosen_rows=len(chosen),
        validates_chosen=not others,
    )
    both = replace(
        data,
        validation=validation,
        leakage=find_leakage(questions, questions.positions >= len(train)),
        split=split,
        validation_source=table.source,
        validation_sha256=table.digest(),
        validation_cleaning=cleaning,
    )
    return replace(both, notes=_list_notes(both, split))


def describe_training_data(data: TrainingData) -> list[str]:
    """A line for each part: its rows, and their labels."""
    lines = [
        f"{len(examples):,} {part} row{'s' * (len(examples) != 1)}"
        f"{_describe_label_counts(data.task, examples)}"
        for part, examples in (("training", data.train), ("validation", data.validation))
    ]
    if data.injected:
        lines.append(f"{len(data.injected):,} training rows also with a planted instruction")
    return lines


def determine_model_phi(tasks: Iterable[Task], bases: Iterable[str]) -> PhiStatus:
    """Whether a model learns from patients' texts: its tables contain them, or its bases did."""
    return combine_phi([*map(determine_phi, tasks), find_phi(*bases)])


def determine_phi(task: Task) -> PhiStatus:
    """Whether the table contains patients' texts; "unknown" if the task file does not say."""
    return "unknown" if task.phi is None else "yes" if task.phi else "no"


def _read_examples(
    task: Task, table: Table, selection: RowSelection, seed: int
) -> tuple[tuple[TrainingExample, ...], CleaningReport]:
    gold = task.gold_column
    require_columns(task, table, gold_column=gold)
    table = resolve_repeated_ids(table, task.id_column)
    if not validate_table(table, task.id_column, can_resolve=True).rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    gold_cells = ((row, row.get(gold or "")) for row in table)
    gold_task, form_notes = read_gold_column(task, gold_cells)
    records = read_records(gold_task, table, gold_column=gold)
    examples, cleaning = clean_rows(
        gold_task, records, min_count=selection.min_count, cap=selection.cap, seed=seed
    )
    cleaning.gold_cells.form_notes = form_notes
    return examples, cleaning


def _check_learnable(
    task: Task,
    table: Table,
    examples: Sequence[TrainingExample],
    cleaning: CleaningReport,
    min_count: int,
) -> None:
    """Raise InputError if a model cannot be trained on the remaining rows."""
    counts, gold = cleaning.dropped_counts, quote(str(task.gold_column))
    if counts.get(DropReason.NO_GOLD, 0) == cleaning.rows:
        raise InputError(
            f"no row of {table.source} has gold in the column {gold}",
            fix="name the right column with --gold",
        )
    if not examples and counts.get(DropReason.UNKNOWN_GOLD):
        first = next(one for one in cleaning.dropped if one.reason is DropReason.UNKNOWN_GOLD)
        raise InputError(
            f"no gold in the column {gold} is an answer of the task "
            f"(row {first.row:,}: {first.explanation})",
            fix="name the right column with --gold, or write gold as the task spells it",
        )
    lower = (
        f"lower --min-count (it is {min_count:,}), or " if counts.get(DropReason.RARE_LABEL) else ""
    )
    if len(examples) < MIN_TRAINING_ROWS:
        raise InputError(
            f"{len(examples)} training row{'s are' if len(examples) != 1 else ' is'} too few: "
            f"{_describe_dropped_rows(cleaning)}",
            fix=(
                f"{lower}give at least {MIN_TRAINING_ROWS} rows with a text and gold; training "
                "begins to help with some hundreds"
            ),
        )
    gold_names = {list_labels(task, example.gold) for example in examples}
    if task.kind_spec.has_labels and len(gold_names) == 1:
        (only,) = gold_names
        name = quote_names(only) if only != (NO_LABEL,) else "no label"
        raise InputError(
            f"{name} is the gold of all {len(examples):,} training rows: there is nothing to "
            "learn to distinguish",
            fix=f"{lower}add rows with other gold",
        )


def _describe_dropped_rows(cleaning: CleaningReport) -> str:
    """ "12 rows read: 9 no gold, 2 duplicate"."""
    reasons = ", ".join(f"{count:,} {why.value}" for why, count in cleaning.dropped_counts.items())
    return f"{cleaning.rows:,} row{'s' * (cleaning.rows != 1)} read" + (
        f", left out: {reasons}" if reasons else ""
    )


def _select_examples(
    question_index: QuestionIndex, mask: NDArray[np.bool_]
) -> tuple[TrainingExample, ...]:
    flags = mask.tolist()
    chosen = (one for one, yes in zip(question_index.examples, flags, strict=True) if yes)
    return tuple(sorted(chosen, key=lambda example: example.row))


def _list_notes(data: TrainingData, split: SplitReport) -> tuple[str, ...]:
    """Notes for the user before training."""
    task = data.task
    notes = list(_list_label_notes(data)) if task.kind_spec.has_labels else []
    if task.kind_spec.has_options and len({str(one.gold) for one in data.train}) == 1:
        notes.append(
            "gold is the same option letter in every row, so only the letter can be learnt: "
            "put the options in random order"
        )
    notes += split.list_notes()
    if task.reasoning:
        notes.append(
            "the task lets the model think before it answers, and gold has no thoughts: training "
            "rows answer at once"
        )
    if get_task_kind(task).has_quotes:
        notes.append(
            "the task asks for quotes beside fields, and gold has none: training rows answer "
            "without them"
        )
    return tuple(notes)


def _list_label_notes(data: TrainingData) -> Iterator[str]:
    train, validation = (count_labels(data.task, part) for part in (data.train, data.validation))
    names = [label.name for label in data.task.labels]
    if untrained := [name for name in names if not train[name]]:
        plural = "s" * (len(untrained) > 1)
        yield f"no training row has the label{plural} {quote_names(untrained)}"
    if untested := [name for name in names if train[name] and not validation[name]]:
        plural = "s" * (len(untested) > 1)
        yield f"no validation row has the label{plural} {quote_names(untested)}"
    unseen = sum(validation[name] for name in validation if name != NO_LABEL and not train[name])
    if unseen:
        rows = "rows have" if unseen > 1 else "row has"
        yield f"{unseen:,} validation {rows} a label that no training row has"


def _describe_label_counts(task: Task, examples: Sequence[TrainingExample]) -> str:
    """ ", 16 labels with 1 to 71 rows each"; "" for kinds without labels."""
    counts = count_labels(task, examples)
    none = counts.pop(NO_LABEL, 0)
    if not task.kind_spec.has_labels or not counts:
        return ""
    least, most = min(counts.values()), max(counts.values())
    description = (
        f", {len(counts):,} label{'s' * (len(counts) != 1)} with "
        f"{f'{least:,} to ' * (least != most)}{most:,} rows each"
    )
    return description + (f", {none:,} with none of them" if none else "")
