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

from medtask.data.read import survey
from medtask.data.source import list_names
from medtask.data.table import Table
from medtask.engines.trained import Phi
from medtask.errors import InputError, TableError, TaskFaults, UsageError
from medtask.tasks.hints import quote
from medtask.tasks.rows import check_columns, read_records
from medtask.tasks.source import read_document
from medtask.tasks.task import Fields, Task
from medtask.train.clean import Cleaning, Why, clean_rows
from medtask.train.leaks import Leaks, Questions, compare_questions, find_leaks
from medtask.train.lesson import NOTHING, Lesson, has_labels, list_labels
from medtask.train.split import Divided, draw_validation, join_equal
from medtask.train.twins import Places, find_families

__all__ = ["Lesson", "Material", "Selection", "describe_material", "find_phi", "gather_material"]

# With fewer, a tenth is not one row, and whatever is seen on the rows to stop by is chance.
# Anything worth using takes hundreds.
LEAST = 10


@dataclass(frozen=True, slots=True)
class Selection:
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


USUAL = Selection()


@dataclass(frozen=True, slots=True)
class Material:
    """Rows to learn from and rows to stop by, both in their table's order; divided here, they share
    no text and no group.

    ``source`` and ``sha256``: of the table; ``validation_...``: of the table that the rows to stop
    by come from, where that is one of its own. ``leaks``: what the two parts share.
    """

    task: Task
    train: tuple[Lesson, ...]
    validation: tuple[Lesson, ...]
    source: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    cleaning: Cleaning | None = None
    leaks: Leaks | None = None
    divided: Divided | None = None
    validation_source: str = ""
    validation_sha256: str = ""
    validation_cleaning: Cleaning | None = None


def gather_material(
    task: Task,
    table: Table,
    *,
    gold_column: str | None = None,
    validation: Table | None = None,
    selection: Selection = USUAL,
    row_limit: int | None = None,
    seed: int = 0,
) -> Material:
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
    lessons, cleaning = _read(task, table, gold, selection, row_limit, seed)
    _check_learnable(task, lessons, cleaning, table, gold, selection.min_count)
    if validation is None:
        questions = compare_questions(task, lessons)
        held, divided = _divide(task, questions, selection.share, seed)
        train, aside = _take(questions, ~held), _take(questions, held)
        return Material(
            task,
            train,
            aside,
            table.source,
            table.digest(),
            _list_notes(task, train, aside, divided),
            cleaning,
            find_leaks(questions, held),
            divided,
        )
    aside, found = _read(task, validation, gold, USUAL, None, seed)
    if not aside:
        fix = "give a table whose gold and input columns are filled in"
        raise InputError(
            f"{validation.source} has no row to validate by: {_tell_why(found)}", fix=fix
        )
    questions = compare_questions(task, (*lessons, *aside))
    leaks = find_leaks(questions, questions.places >= len(lessons))
    divided = Divided(given=True, share=len(aside) / (len(lessons) + len(aside)), seed=seed)
    return Material(
        task,
        lessons,
        aside,
        table.source,
        table.digest(),
        _list_notes(task, lessons, aside, divided),
        cleaning,
        leaks,
        divided,
        validation.source,
        validation.digest(),
        found,
    )


def describe_material(material: Material) -> list[str]:
    """How many rows each part has, and how many there are of each label."""
    parts = (("to learn from", material.train), ("to validate by", material.validation))
    return [
        (
            f"{len(lessons):,} row{'s' * (len(lessons) != 1)} "
            f"{what}{_tell_labels(material.task, lessons)}"
        )
        for what, lessons in parts
    ]


def find_phi(task: Task) -> Phi:
    """Whether the task's table holds texts of patients; "unknown" where its file does not say."""
    if task.phi:
        return "yes"
    try:
        said = read_document(task.source).at("phi") if task.source else None
    except InputError:
        return "unknown"
    return "unknown" if said is None else "no"


def _read(
    task: Task, table: Table, gold: str, selection: Selection, row_limit: int | None, seed: int
) -> tuple[tuple[Lesson, ...], Cleaning]:
    if faults := check_columns(task, table.columns, gold_column=gold):
        raise TaskFaults(str(task.source or task.name), faults)
    if not survey(table, task.id_column).rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    records = islice(read_records(task, table, gold_column=gold), row_limit)
    return clean_rows(task, records, min_count=selection.min_count, cap=selection.cap, seed=seed)


def _check_learnable(
    task: Task,
    lessons: Sequence[Lesson],
    cleaning: Cleaning,
    table: Table,
    gold: str,
    min_count: int,
) -> None:
    """InputError where nothing can be learnt from what is left."""
    counts = cleaning.counts
    if counts.get(Why.NO_GOLD, 0) == cleaning.rows:
        raise InputError(
            f"no row of {table.source} has gold in the column {quote(gold)}",
            fix="name the right column with --gold",
        )
    if not lessons and counts.get(Why.UNKNOWN):
        first = next(one for one in cleaning.dropped if one.what is Why.UNKNOWN)
        fix = "name the right column with --gold, or write gold as the task has it"
        raise InputError(
            f"no gold in the column {quote(gold)} is an answer of the task (row {first.row:,}: "
            f"{first.why})",
            fix=fix,
        )
    if len(lessons) < LEAST:
        fix = (
            f"give at least {LEAST} rows with a text and gold; some hundreds are where "
            "training begins to pay"
        )
        fix = f"lower --min-count (it is {min_count:,}), or {fix}" if counts.get(Why.RARE) else fix
        raise InputError(
            f"{len(lessons)} row{'s' * (len(lessons) != 1)} to learn from are too few: "
            f"{_tell_why(cleaning)}",
            fix=fix,
        )
    said = {list_labels(task, lesson.record.gold) for lesson in lessons}
    if has_labels(task) and len(said) == 1:
        (only,) = said
        name = list_names(only) if only != (NOTHING,) else "no label"
        fix = "add rows with other gold"
        fix = f"lower --min-count (it is {min_count:,}), or {fix}" if counts.get(Why.RARE) else fix
        raise InputError(
            f"{name} is the gold of all {len(lessons):,} rows to learn from: there is nothing to "
            "tell apart",
            fix=fix,
        )


def _tell_why(cleaning: Cleaning) -> str:
    """ "12 rows read: 9 no gold, 2 duplicate"."""
    reasons = ", ".join(f"{count:,} {why.value}" for why, count in cleaning.counts.items())
    return f"{cleaning.rows:,} row{'s' * (cleaning.rows != 1)} read" + (
        f", left out: {reasons}" if reasons else ""
    )


def _divide(
    task: Task, questions: Questions, share: float, seed: int
) -> tuple[NDArray[np.bool_], Divided]:
    """Which of the questions are set aside. Groups and equal questions are never parted; near
    duplicates are where there is no other way to half the share.
    """
    lessons, keys = questions.lessons, questions.keys
    labels = [list_labels(task, lesson.record.gold) for lesson in lessons]
    bound = join_equal(
        join_equal(np.arange(len(keys)), keys), [lesson.record.group for lesson in lessons]
    )
    twins = find_families(questions.texts)
    wanted = share * len(keys) / 2
    for families, joined in (
        (join_equal(bound, twins.tolist()), _count_twins(twins)),
        (bound, None),
    ):
        held = draw_validation(keys, families, labels, share, seed)
        if held is not None and (held.sum() >= wanted or joined is None):
            return held, Divided(given=False, share=share, seed=seed, joined=joined)
    raise InputError(
        f"the {len(keys):,} rows to learn from cannot be divided: {_tell_bonds(task, lessons)}",
        fix="give rows to validate by in a table of their own: --validation TABLE",
    )


def _count_twins(families: Places) -> int:
    """Rows that are near duplicates of others."""
    _, sizes = np.unique(families, return_counts=True)
    return int(sizes[sizes > 1].sum())


def _tell_bonds(task: Task, lessons: Sequence[Lesson]) -> str:
    groups = {lesson.record.group for lesson in lessons}
    if task.group_column and len(groups) < len(lessons):
        many = f"{len(groups):,} group{'s' * (len(groups) != 1)}"
        return (
            f"they belong to {many} of the column {quote(task.group_column)}, too few to share out"
        )
    return "no row can be spared of any label"


def _take(questions: Questions, wanted: NDArray[np.bool_]) -> tuple[Lesson, ...]:
    chosen = [lesson for lesson, yes in zip(questions.lessons, wanted.tolist(), strict=True) if yes]
    return tuple(sorted(chosen, key=lambda lesson: lesson.row))


def _list_notes(
    task: Task, train: Sequence[Lesson], validation: Sequence[Lesson], divided: Divided
) -> tuple[str, ...]:
    """What people should know before they train."""
    notes = []
    taught, asked = _count_labels(task, train), _count_labels(task, validation)
    if has_labels(task):
        names = [label.name for label in task.labels]
        if untaught := [name for name in names if not taught[name]]:
            notes.append(
                f"no row to learn from has the label{'s' * (len(untaught) > 1)} "
                f"{list_names(untaught)}"
            )
        if untested := [name for name in names if taught[name] and not asked[name]]:
            notes.append(
                f"no row to validate by has the label{'s' * (len(untested) > 1)} "
                f"{list_names(untested)}"
            )
        if strange := sum(asked[name] for name in asked if name != NOTHING and not taught[name]):
            have = "rows to validate by have" if strange > 1 else "row to validate by has"
            notes.append(f"{strange:,} {have} a label that no row to learn from has")
    elif task.kind == "choice" and len({str(lesson.record.gold) for lesson in train}) == 1:
        notes.append(
            "gold is the same option letter in every row: the letter is all that will be learnt; "
            "put the options in random order"
        )
    if divided.joined is None:
        notes.append(
            "too many rows are near duplicates of one another to keep them on one side: figures "
            "of validation will be too good"
        )
    if task.reasoning:
        notes.append(
            "the task lets the model think before it answers, and gold has no thoughts: the rows "
            "answer at once"
        )
    if isinstance(task.form, Fields) and task.form.quoted:
        notes.append(
            "the task asks for quotes beside fields, and gold has none: the rows answer without "
            "them"
        )
    return tuple(notes)


def _count_labels(task: Task, lessons: Sequence[Lesson]) -> Counter[str]:
    return Counter(name for lesson in lessons for name in list_labels(task, lesson.record.gold))


def _tell_labels(task: Task, lessons: Sequence[Lesson]) -> str:
    """ ", 16 labels with 1 to 71 each"; nothing for kinds without labels."""
    counts = _count_labels(task, lessons)
    none = counts.pop(NOTHING, 0)
    if not has_labels(task) or not counts:
        return ""
    least, most = min(counts.values()), max(counts.values())
    told = (
        f", {len(counts):,} label{'s' * (len(counts) != 1)} with "
        f"{f'{least:,} to ' * (least != most)}{most:,} rows each"
    )
    return told + (f", {none:,} with none of them" if none else "")
