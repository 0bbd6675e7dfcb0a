"""Which rows of a table can be learnt from; of every other row, why not."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from medtask.data.table import Column
from medtask.data.write import write_answers
from medtask.records import Fault, Prompt, Record, Status
from medtask.tasks.gold import find_strange
from medtask.tasks.hints import closest, quote
from medtask.tasks.hygiene import clean_text
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import LISTED_GOLD
from medtask.tasks.task import FreeText, Gate, Task
from medtask.train.lesson import NOTHING, Lesson, draw_order, has_labels, hash_question, list_labels

_LISTED_ROWS = 5


class Why(StrEnum):
    """Why a row is left out, in the order in which it is asked."""

    NO_GOLD = "no gold"
    UNKNOWN = "unknown gold"
    EMPTY = "empty"
    UNFIT = "not askable"
    EXAMPLE = "worked example"
    DUPLICATE = "duplicate"
    OUTVOTED = "outvoted"
    CONFLICT = "conflict"
    RARE = "rare label"
    CAPPED = "above the cap"


_TOLD: Mapping[Why, str] = {
    Why.NO_GOLD: "no gold",
    Why.UNKNOWN: "gold is no answer of the task",
    Why.EMPTY: "no text",
    Why.UNFIT: "a run would not ask about them either",
    Why.EXAMPLE: "the task shows them in every prompt, as worked examples",
    Why.DUPLICATE: "same question and same gold as an earlier row",
    Why.OUTVOTED: "two thirds or more of the rows with the same question have other gold",
    Why.CONFLICT: "same question, contradicting gold",
    Why.RARE: "too few rows of a label",
    Why.CAPPED: "other rows of the label were drawn",
}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out. ``why`` says so in a sentence that holds no text of the record."""

    row: int
    id: str
    what: Why
    why: str


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What became of the rows of a table: each was kept or dropped, for one reason. ``labels``:
    kept rows by label, in the task's order, those without a row too; empty for kinds without
    labels. ``hints``: labels that unknown gold probably meant.
    """

    rows: int
    kept: int
    dropped: tuple[Dropped, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    hints: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Why, int]:
        """Dropped rows by reason; reasons without a row are left out."""
        found = Counter(one.what for one in self.dropped)
        return {why: found[why] for why in Why if found[why]}

    def tell(self) -> list[str]:
        """A line of what there is, and one for each reason to leave rows out."""
        lines = [f"{self.rows:,} row{'s' * (self.rows != 1)} read, {self.kept:,} of use"]
        for why, count in self.counts.items():
            hint = (
                f" (perhaps {', '.join(map(quote, self.hints))} is meant)"
                if why is Why.UNKNOWN and self.hints
                else ""
            )
            lines.append(f"{count:,} left out: {_TOLD[why]}{hint}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": {why.value: count for why, count in self.counts.items()},
            "labels": dict(self.labels),
        }


def clean_rows(
    task: Task,
    records: Iterable[Record],
    *,
    min_count: int = 1,
    cap: int | None = None,
    seed: int = 0,
) -> tuple[tuple[Lesson, ...], Cleaning]:
    """The rows to learn from, in the table's order, and what became of the others.

    Of rows with the same question (see hash_question) and the same gold the first is kept. Where
    gold differs, the gold of two thirds or more of them is believed; without such a majority none
    is kept. Kind ``answer`` has no contradictions: a question may have several good answers.
    ``min_count``: rows with a label that fewer rows have are dropped; ``cap``: a row is dropped
    once all its labels have so many rows, in an order drawn by ``seed`` alone. Both are for kinds
    with labels.
    """
    book = _Book(task)
    lessons = book.read(records)
    lessons = book.settle_repeats(lessons)
    if has_labels(task):
        lessons = book.drop_rare(lessons, min_count)
        lessons = book.keep_cap(lessons, cap, seed) if cap is not None else lessons
    counts = Counter(name for lesson in lessons for name in list_labels(task, lesson.record.gold))
    names = [label.name for label in task.labels] if has_labels(task) else []
    names += [task.abstain.name] if task.abstain and counts[task.abstain.name] else []
    dropped = tuple(sorted(book.dropped, key=lambda one: one.row))
    return tuple(lessons), Cleaning(
        book.rows, len(lessons), dropped, {name: counts[name] for name in names}, book.list_hints()
    )


def write_cleaning(path: Path, cleaning: Cleaning) -> None:
    """A line for each row that was left out: row, id, what, why. The file is its owner's only, and
    replaced whole.
    """
    columns = [Column("row", "int"), *(Column(name, "text") for name in ("id", "what", "why"))]
    write_answers(
        path, columns, ([one.row, one.id, one.what.value, one.why] for one in cleaning.dropped)
    )


class _Book:
    """Cleaning under way."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.rows = 0
        self.dropped: list[Dropped] = []
        self.keys: dict[int, bytes] = {}
        self.meant: dict[str, str | None] = {}

    def drop(self, row: int, record: Record, what: Why, why: str) -> None:
        self.dropped.append(Dropped(row, record.id, what, why))

    def list_hints(self) -> tuple[str, ...]:
        return tuple(sorted({name for name in self.meant.values() if name}))

    def read(self, records: Iterable[Record]) -> list[Lesson]:
        """The rows that have a question and an answer to it."""
        shown = _hash_examples(self.task)
        lessons: list[Lesson] = []
        for self.rows, record in enumerate(records, 1):
            lesson = self._read_one(record, lessons[-1].prompt if lessons else None)
            if lesson is None:
                continue
            key = hash_question(self.task, lesson.record, lesson.prompt)
            if key in shown:
                self.drop(
                    self.rows,
                    record,
                    Why.EXAMPLE,
                    "every prompt of the task shows this row with its answer",
                )
                continue
            self.keys[self.rows] = key
            lessons.append(lesson)
        return lessons

    def _read_one(self, record: Record, before: Prompt | None) -> Lesson | None:
        gold = record.gold
        if isinstance(self.task.form, FreeText) and isinstance(gold, str):
            gold = clean_text(gold) or None
        if gold is None:
            self.drop(self.rows, record, Why.NO_GOLD, "the gold column is blank")
            return None
        if strange := find_strange(self.task, record.fields, gold):
            self.drop(self.rows, record, Why.UNKNOWN, self._explain(strange))
            return None
        prompt = build_prompt(self.task, record)
        if isinstance(prompt, Fault):
            self.drop(
                self.rows,
                record,
                Why.EMPTY if prompt.status is Status.EMPTY_INPUT else Why.UNFIT,
                prompt.reason,
            )
            return None
        if before is not None and prompt.branches == before.branches:
            # A hundred thousand copies of thirty labels and their meanings would take gigabytes.
            prompt = replace(prompt, branches=before.branches)
        return Lesson(self.rows, replace(record, gold=gold), prompt)

    def _explain(self, strange: Sequence[str]) -> str:
        """Without the gold itself, which in a wrong column would be somebody's words."""
        names = [label.name for label in self.task.candidates]
        for value in strange:
            if names and value not in self.meant and len(self.meant) < LISTED_GOLD:
                self.meant[value] = closest(value, names)
        meant = sorted({name for value in strange if (name := self.meant.get(value))})
        what = {"choice": "option of the row", "fields": "object of the schema"}.get(
            self.task.kind, "label of the task"
        )
        return f"gold is no {what}" + (f", perhaps {', '.join(map(quote, meant))}" if meant else "")

    def settle_repeats(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """One row for each question; for each question and answer where questions may have
        several.
        """
        alike: dict[bytes, list[Lesson]] = defaultdict(list)
        for lesson in lessons:
            alike[self.keys[lesson.row]].append(lesson)
        kept = [
            lesson
            for same in alike.values()
            for lesson in (same if len(same) == 1 else self._settle(same))
        ]
        return sorted(kept, key=lambda lesson: lesson.row)

    def _settle(self, same: Sequence[Lesson]) -> list[Lesson]:
        by_gold: dict[str, list[Lesson]] = defaultdict(list)
        for lesson in same:
            by_gold[json.dumps(lesson.record.gold, sort_keys=True, default=str)].append(lesson)
        believed = list(by_gold.values())
        if len(by_gold) > 1 and not isinstance(self.task.form, FreeText):
            most = max(believed, key=len)
            if 3 * len(most) < 2 * len(same):
                shown = ", ".join(f"{lesson.row:,}" for lesson in same[:_LISTED_ROWS]) + (
                    ", …" if len(same) > _LISTED_ROWS else ""
                )
                why = f"the rows {shown} ask the same and have {len(by_gold):,} different golds"
                for lesson in same:
                    self.drop(lesson.row, lesson.record, Why.CONFLICT, why)
                return []
            agreed = {lesson.row for lesson in most}
            for lesson in same:
                if lesson.row not in agreed:
                    why = (
                        f"{len(most):,} of {len(same):,} rows that ask the same have other "
                        f"gold, as row {most[0].row:,} does"
                    )
                    self.drop(lesson.row, lesson.record, Why.OUTVOTED, why)
            believed = [most]
        for first, *others in believed:
            for lesson in others:
                self.drop(
                    lesson.row,
                    lesson.record,
                    Why.DUPLICATE,
                    f"row {first.row:,} asks the same and has the same gold",
                )
        return [lessons[0] for lessons in believed]

    def drop_rare(self, lessons: list[Lesson], min_count: int) -> list[Lesson]:
        """Rows that have a rare label, all of them: without that label their gold would be wrong.
        Until no label is rare.
        """
        while True:
            counts = Counter(
                name for lesson in lessons for name in list_labels(self.task, lesson.record.gold)
            )
            rare = {name for name, count in counts.items() if count < min_count and name != NOTHING}
            if not rare:
                return lessons
            kept = []
            for lesson in lessons:
                own = [name for name in list_labels(self.task, lesson.record.gold) if name in rare]
                if own:
                    why = (
                        f"its label {quote(own[0])} has {counts[own[0]]:,} of the "
                        f"{min_count:,} rows that are wanted"
                    )
                    self.drop(lesson.row, lesson.record, Why.RARE, why)
                else:
                    kept.append(lesson)
            lessons = kept

    def keep_cap(self, lessons: Sequence[Lesson], cap: int, seed: int) -> list[Lesson]:
        taken: Counter[str] = Counter()
        kept = []
        for place in draw_order([self.keys[lesson.row] for lesson in lessons], seed):
            lesson = lessons[place]
            own = list_labels(self.task, lesson.record.gold)
            if all(taken[name] >= cap for name in own):
                self.drop(
                    lesson.row,
                    lesson.record,
                    Why.CAPPED,
                    f"{cap:,} other rows of {quote(own[0] or 'no label')} were drawn",
                )
            else:
                taken.update(own)
                kept.append(lesson)
        return sorted(kept, key=lambda lesson: lesson.row)


def _hash_examples(task: Task) -> frozenset[bytes]:
    """The questions that every prompt of the task answers already. A pool's rows are not shown to
    themselves.
    """
    bare = replace(task, examples=(), pool=None, gate=Gate())
    records = [Record("", example.fields) for example in task.examples]
    asked = [(record, build_prompt(bare, record)) for record in records]
    return frozenset(
        hash_question(task, record, prompt)
        for record, prompt in asked
        if isinstance(prompt, Prompt)
    )
