"""Selects the rows of a table that can be used for training, and explains why others cannot."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from medtask.display import find_closest, format_first, format_row_count, quote
from medtask.records import Fault, Prompt, Record, Status
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.cell_counts import CellCounts
from medtask.tasks.prompt import build_prompt
from medtask.tasks.row_fingerprints import hash_question
from medtask.tasks.rows import MAX_LISTED_GOLD, find_invalid_gold
from medtask.tasks.task import Gate, Task
from medtask.tasks.text_cleaning import clean_text
from medtask.training.training_example import (
    NO_LABEL,
    TrainingExample,
    count_labels,
    list_labels,
    shuffle_by_hash,
)
from medtask.unicode_text import describe_lookalike

_LISTED_ROWS = 5
# Values that are less similar to every label are not shown: they may be a patient's text.
_SUGGESTION_CUTOFF = 0.75


class DropReason(StrEnum):
    """Reasons for leaving out a row, in the order of the checks."""

    NO_GOLD = "no gold"
    UNKNOWN_GOLD = "unknown gold"
    EMPTY = "empty"
    NOT_ASKABLE = "not askable"
    WORKED_EXAMPLE = "worked example"
    DUPLICATE = "duplicate"
    OUTVOTED = "outvoted"
    CONFLICT = "conflict"
    RARE_LABEL = "rare label"
    ABOVE_CAP = "above the cap"


_REASON_DESCRIPTIONS: Mapping[DropReason, str] = {
    DropReason.NO_GOLD: "no gold",
    DropReason.UNKNOWN_GOLD: "gold is not an answer of the task",
    DropReason.EMPTY: "no text",
    DropReason.NOT_ASKABLE: "a run would not send them to the model either",
    DropReason.WORKED_EXAMPLE: "every prompt shows them as worked examples",
    DropReason.DUPLICATE: "same question and same gold as an earlier row",
    DropReason.OUTVOTED: "most rows with the same question (two thirds or more) have other gold",
    DropReason.CONFLICT: "same question, contradictory gold",
    DropReason.RARE_LABEL: "too few rows of a label",
    DropReason.ABOVE_CAP: "other rows of the label were drawn",
}


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that is left out; ``explanation`` contains no text of the record."""

    row: int
    id: str
    reason: DropReason
    explanation: str


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """Numbers of kept and dropped rows; each row is dropped for one reason.

    Attributes:
        label_counts: Kept rows by label, in the task's order; empty for kinds without labels.
        label_suggestions: The labels that unknown gold values are probably variants of, by value.
        gold_cells: Counts of gold that was matched after normalisation, or is missing.
    """

    rows: int
    kept: int
    dropped: tuple[DroppedRow, ...]
    label_counts: Mapping[str, int] = field(default_factory=dict)
    label_suggestions: Mapping[str, str] = field(default_factory=dict)
    gold_cells: CellCounts = field(default_factory=CellCounts)

    @property
    def dropped_counts(self) -> dict[DropReason, int]:
        """Number of dropped rows by reason, for reasons with at least one row."""
        found = Counter(one.reason for one in self.dropped)
        return {why: found[why] for why in DropReason if found[why]}

    def describe(self) -> list[str]:
        """A line about all rows, one for each reason to leave rows out, and on the gold column."""
        return [
            f"{self.rows:,} row{'s' * (self.rows != 1)} read, {self.kept:,} usable",
            *self.list_notes(),
        ]

    def list_notes(self) -> list[str]:
        """Lines about rows that are left out, and about gold that was normalised or is missing."""
        rows = defaultdict(list)
        for one in self.dropped:
            rows[one.reason].append(f"{one.row:,}")
        lines = []
        for reason, count in self.dropped_counts.items():
            examples = [f"row{'s' * (count > 1)} {format_first(rows[reason], _LISTED_ROWS)}"]
            if reason is DropReason.UNKNOWN_GOLD:
                examples += self._describe_suggestions()
            lines.append(
                f"{format_row_count(count)} left out: {_REASON_DESCRIPTIONS[reason]} "
                f"({'; '.join(examples)})"
            )
        return lines + self.gold_cells.describe("the gold column")

    def _describe_suggestions(self) -> list[str]:
        # A value that resembles no label may be a patient's text from another column.
        shown = [
            f"{quote(value)} is probably {quote(name)}"
            + (f" ({difference})" if (difference := describe_lookalike(value, name)) else "")
            for value, name in self.label_suggestions.items()
        ]
        return [format_first(shown, _LISTED_ROWS)] if shown else []

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": {why.value: count for why, count in self.dropped_counts.items()},
            "labels": dict(self.label_counts),
            "gold": self.gold_cells.to_json(),
        }


def clean_rows(
    task: Task,
    records: Iterable[Record],
    *,
    min_count: int = 1,
    cap: int | None = None,
    seed: int = 0,
) -> tuple[tuple[TrainingExample, ...], CleaningReport]:
    """The usable rows in the table's order, and a report about the others.

    Of rows with the same question (see `hash_question`) and the same gold, the first is kept. Where
    gold differs, the gold of a majority of two thirds is used; without one, no row is kept. Free
    text has no contradictions: a question may have several good answers.

    Args:
        task: The task.
        records: The rows.
        min_count: Minimum number of rows of a label; rows of rarer labels are dropped.
        cap: A row is dropped once all its labels have this many rows.
        seed: Decides which rows exceed a cap.
    """
    cleaner = _RowCleaner(task)
    examples = cleaner.read_examples(records)
    examples = cleaner.resolve_duplicates(examples)
    if task.kind_spec.has_labels:
        examples = cleaner.drop_rare_labels(examples, min_count)
        examples = cleaner.apply_label_cap(examples, cap, seed) if cap is not None else examples
    counts = count_labels(task, examples)
    names = [label.name for label in task.labels] if task.kind_spec.has_labels else []
    names += [task.abstain.name] if task.abstain and counts[task.abstain.name] else []
    dropped = tuple(sorted(cleaner.dropped, key=lambda one: one.row))
    return tuple(examples), CleaningReport(
        cleaner.rows,
        len(examples),
        dropped,
        {name: counts[name] for name in names},
        cleaner.get_label_suggestions(),
        cleaner.gold_cells,
    )


def write_cleaning_report(path: Path, report: CleaningReport) -> None:
    """Write a CSV file with a line per dropped row: row, id, what, why.

    The file is readable for its owner only, and replaced atomically.
    """
    columns = [Column("row", "int"), *(Column(name, "text") for name in ("id", "what", "why"))]
    write_answers(
        path,
        columns,
        ([one.row, one.id, one.reason.value, one.explanation] for one in report.dropped),
    )


class _RowCleaner:
    """Drops rows in several steps and collects the reasons."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.rows = 0
        self.dropped: list[DroppedRow] = []
        self.keys: dict[int, bytes] = {}
        self.label_suggestions: dict[str, str | None] = {}
        self.gold_cells = CellCounts()

    def drop(self, row: int, record: Record, reason: DropReason, explanation: str) -> None:
        self.dropped.append(DroppedRow(row, record.id, reason, explanation))

    def get_label_suggestions(self) -> dict[str, str]:
        return {value: name for value, name in self.label_suggestions.items() if name}

    def read_examples(self, records: Iterable[Record]) -> list[TrainingExample]:
        """The rows that have a question and a valid answer."""
        example_keys = _hash_worked_examples(self.task)
        examples: list[TrainingExample] = []
        gold_column = self.task.gold_column or ""
        for self.rows, record in enumerate(records, 1):
            self.gold_cells.add(self.task, record.fields, record.fields.get(gold_column))
            example = self._read_one(record, examples[-1].prompt if examples else None)
            if example is None:
                continue
            key = hash_question(self.task, example.record, example.prompt)
            if key in example_keys:
                self.drop(
                    self.rows,
                    record,
                    DropReason.WORKED_EXAMPLE,
                    "every prompt of the task shows this row with its answer",
                )
                continue
            self.keys[self.rows] = key
            examples.append(example)
        return examples

    def _read_one(self, record: Record, previous_prompt: Prompt | None) -> TrainingExample | None:
        gold = record.gold
        if self.task.kind_spec.free_text and isinstance(gold, str):
            gold = clean_text(gold) or None
        if gold is None:
            self.drop(self.rows, record, DropReason.NO_GOLD, "the gold column is blank")
            return None
        if unknown_values := find_invalid_gold(self.task, record.fields, gold):
            self.drop(
                self.rows,
                record,
                DropReason.UNKNOWN_GOLD,
                self._explain_unknown_gold(unknown_values),
            )
            return None
        prompt = build_prompt(self.task, record)
        if isinstance(prompt, Fault):
            self.drop(
                self.rows,
                record,
                DropReason.EMPTY if prompt.status is Status.EMPTY_INPUT else DropReason.NOT_ASKABLE,
                prompt.reason,
            )
            return None
        if previous_prompt is not None and prompt.branches == previous_prompt.branches:
            # 100,000 copies of thirty labels and definitions would take gigabytes.
            prompt = replace(prompt, branches=previous_prompt.branches)
        return TrainingExample(self.rows, replace(record, gold=gold), prompt)

    def _explain_unknown_gold(self, unknown_values: Sequence[str]) -> str:
        """An explanation that does not quote gold, which in a wrong column would be a patient's
        text.
        """
        names = [label.name for label in self.task.candidates]
        for value in unknown_values:
            if (
                names
                and value not in self.label_suggestions
                and len(self.label_suggestions) < MAX_LISTED_GOLD
            ):
                self.label_suggestions[value] = find_closest(value, names, _SUGGESTION_CUTOFF)
        suggestions = sorted(
            {name for value in unknown_values if (name := self.label_suggestions.get(value))}
        )
        return f"gold is not {self.task.kind_spec.gold_noun}" + (
            f", probably {', '.join(map(quote, suggestions))}" if suggestions else ""
        )

    def resolve_duplicates(self, examples: Sequence[TrainingExample]) -> list[TrainingExample]:
        """One row per question, or per question and answer if several answers are allowed."""
        alike: dict[bytes, list[TrainingExample]] = defaultdict(list)
        for example in examples:
            alike[self.keys[example.row]].append(example)
        kept = [
            example
            for same in alike.values()
            for example in (same if len(same) == 1 else self._resolve_duplicate_question(same))
        ]
        return sorted(kept, key=lambda example: example.row)

    def _resolve_duplicate_question(
        self, duplicates: Sequence[TrainingExample]
    ) -> list[TrainingExample]:
        by_gold: dict[str, list[TrainingExample]] = defaultdict(list)
        for example in duplicates:
            by_gold[json.dumps(example.gold, sort_keys=True, default=str)].append(example)
        groups = list(by_gold.values())
        if len(by_gold) > 1 and not self.task.kind_spec.free_text:
            majority = max(groups, key=len)
            if 3 * len(majority) < 2 * len(duplicates):
                row_list = ", ".join(
                    f"{example.row:,}" for example in duplicates[:_LISTED_ROWS]
                ) + (", …" if len(duplicates) > _LISTED_ROWS else "")
                why = (
                    f"the rows {row_list} ask the same and have {len(by_gold):,} different answers"
                )
                for example in duplicates:
                    self.drop(example.row, example.record, DropReason.CONFLICT, why)
                return []
            majority_rows = {example.row for example in majority}
            for example in duplicates:
                if example.row not in majority_rows:
                    why = (
                        f"{len(majority):,} of {len(duplicates):,} rows that ask the same have "
                        f"different gold, as row {majority[0].row:,} does"
                    )
                    self.drop(example.row, example.record, DropReason.OUTVOTED, why)
            groups = [majority]
        for first, *others in groups:
            for example in others:
                self.drop(
                    example.row,
                    example.record,
                    DropReason.DUPLICATE,
                    f"row {first.row:,} asks the same and has the same gold",
                )
        return [examples[0] for examples in groups]

    def drop_rare_labels(
        self, examples: list[TrainingExample], min_count: int
    ) -> list[TrainingExample]:
        """Drop all rows with a rare label, until no label is rare.

        Removing only the label would make the gold of such rows wrong.
        """
        while True:
            counts = count_labels(self.task, examples)
            rare = {
                name for name, count in counts.items() if count < min_count and name != NO_LABEL
            }
            if not rare:
                return examples
            kept = []
            for example in examples:
                own = [name for name in list_labels(self.task, example.gold) if name in rare]
                if own:
                    why = (
                        f"its label {quote(own[0])} has {counts[own[0]]:,} of the "
                        f"required {min_count:,} rows"
                    )
                    self.drop(example.row, example.record, DropReason.RARE_LABEL, why)
                else:
                    kept.append(example)
            examples = kept

    def apply_label_cap(
        self, examples: Sequence[TrainingExample], cap: int, seed: int
    ) -> list[TrainingExample]:
        taken: Counter[str] = Counter()
        kept = []
        for index in shuffle_by_hash([self.keys[example.row] for example in examples], seed):
            example = examples[index]
            own = list_labels(self.task, example.gold)
            if all(taken[name] >= cap for name in own):
                self.drop(
                    example.row,
                    example.record,
                    DropReason.ABOVE_CAP,
                    f"{cap:,} other rows of {quote(own[0] or 'no label')} were drawn",
                )
            else:
                taken.update(own)
                kept.append(example)
        return sorted(kept, key=lambda example: example.row)


def _hash_worked_examples(task: Task) -> frozenset[bytes]:
    """Hashes of the questions of the task's worked examples. An example is never shown for its own
    row.
    """
    bare = replace(task, examples=(), pool=None, gate=Gate())
    records = [Record("", example.fields) for example in task.examples]
    asked = [(record, build_prompt(bare, record)) for record in records]
    return frozenset(
        hash_question(task, record, prompt)
        for record, prompt in asked
        if isinstance(prompt, Prompt)
    )
