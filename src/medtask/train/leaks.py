"""What the rows to stop by share with the rows to learn from: figures on them would be too good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.tasks.task import Task
from medtask.train.lesson import Lesson, hash_question, write_question
from medtask.train.twins import NEAR, Sketch, find_across, sketch

_WORST = 10


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Lessons made comparable, in an order that does not depend on that of the rows: ``lessons[i]``
    was at ``places[i]``.

    ``keys``: equal where the questions are (see hash_question).
    """

    lessons: tuple[Lesson, ...]
    places: NDArray[np.int64]
    keys: tuple[bytes, ...]
    texts: Sketch


@dataclass(frozen=True, slots=True)
class Twin:
    """Two rows that say nearly the same, one on each side, by their numbers; ``likeness`` in [0,
    1].
    """

    train_row: int
    validation_row: int
    likeness: float


@dataclass(frozen=True, slots=True)
class Leaks:
    """What of ``validation`` rows is known from training. ``equal``: rows whose question is learnt
    from, too; ``near``: further rows with a near duplicate there (likeness ``bound`` or more).
    ``groups``: groups on both sides, with ``group_rows`` validation rows. ``worst``: the pairs most
    alike.
    """

    validation: int
    equal: int = 0
    near: int = 0
    groups: int = 0
    group_rows: int = 0
    worst: tuple[Twin, ...] = ()
    bound: float = NEAR

    @property
    def share(self) -> float:
        """The share of validation rows whose question, or nearly it, is learnt from."""
        return (self.equal + self.near) / self.validation if self.validation else 0.0

    def tell(self) -> list[str]:
        """A line for each kind of leak; one where there is none."""
        of = f"of {self.validation:,} validation row{'s' * (self.validation != 1)}"
        lines = []
        if self.equal:
            lines.append(f"{self.equal:,} {of} ask what a row to learn from asks")
        if self.near:
            more = "more " if self.equal else ""
            lines.append(
                f"{self.near:,} {more}{of} nearly repeat a row to learn from (likeness "
                f"{self.bound:g} or more)"
            )
        if self.worst:
            pairs = ", ".join(
                f"{twin.validation_row:,} and {twin.train_row:,} ({twin.likeness:.2f})"
                for twin in self.worst[:3]
            )
            lines.append(
                f"most alike are the rows {pairs}, validation first: take such rows out of one side"
            )
        if self.groups:
            lines.append(
                f"{self.groups:,} group{'s are' if self.groups > 1 else ' is'} on both sides, "
                f"with {self.group_rows:,} {of}"
            )
        return lines or [
            f"none: no group and no text (likeness {self.bound:g} or more) is on both sides"
        ]

    def to_json(self) -> dict[str, Any]:
        pairs = [asdict(replace(twin, likeness=round(twin.likeness, 4))) for twin in self.worst]
        counts = {
            name: getattr(self, name)
            for name in ("validation", "equal", "near", "groups", "group_rows", "bound")
        }
        return {**counts, "share": round(self.share, 6), "worst": pairs}


def compare_questions(task: Task, lessons: Sequence[Lesson]) -> Questions:
    """Read what the lessons ask, once for all comparisons; seconds for 100,000 short rows."""
    keys = [hash_question(task, lesson.record, lesson.prompt) for lesson in lessons]
    order = sorted(
        range(len(lessons)), key=lambda place: (keys[place], str(lessons[place].record.gold), place)
    )
    chosen = tuple(lessons[place] for place in order)
    texts = sketch([write_question(task, lesson.record, lesson.prompt) for lesson in chosen])
    return Questions(
        chosen, np.array(order, dtype=np.int64), tuple(keys[place] for place in order), texts
    )


def find_leaks(questions: Questions, validation: NDArray[np.bool_]) -> Leaks:
    """What the rows of ``validation`` ([questions]) share with the others."""
    held = validation.tolist()
    learnt = {key for key, aside in zip(questions.keys, held, strict=True) if not aside}
    equal = np.array(
        [aside and key in learnt for key, aside in zip(questions.keys, held, strict=True)],
        dtype=bool,
    )
    twins = find_across(questions.texts, validation)
    aside = np.where(validation[twins.first], twins.first, twins.second)
    taught = np.where(validation[twins.first], twins.second, twins.first)
    near = np.setdiff1d(aside, np.flatnonzero(equal))
    rows = [lesson.row for lesson in questions.lessons]
    listed = zip(
        taught[:_WORST].tolist(),
        aside[:_WORST].tolist(),
        twins.likeness[:_WORST].tolist(),
        strict=True,
    )
    worst = tuple(Twin(rows[one], rows[other], likeness) for one, other, likeness in listed)
    sides: tuple[list[str], list[str]] = ([], [])
    for lesson, apart in zip(questions.lessons, held, strict=True):
        if lesson.record.group is not None:
            sides[apart].append(lesson.record.group)
    both = set(sides[0]) & set(sides[1])
    return Leaks(
        sum(held),
        int(equal.sum()),
        len(near),
        len(both),
        sum(group in both for group in sides[1]),
        worst,
    )
