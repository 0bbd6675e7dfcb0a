"""Changes that each further pass of a run made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.significance import compare_wins
from medtask.records import Answer, Status, Value

CorrectnessCheck = Callable[[Status, Value | None], bool | None]


@dataclass(frozen=True, slots=True)
class PassSummary:
    """Rows that a pass answered again.

    Attributes:
        name: The pass.
        asked: Number of rows.
        changed: Rows with a different value than before.
        gained: Rows that had no value and now have one.
        lost: Rows that had a value and now have none.
        before_after: Rows by [right before][right after]; None without gold.
        p: p-value of the rows that became right against those that became wrong.
        test: The test: the exact sign test, which is McNemar's, or the randomisation of whole
            groups of rows.
    """

    name: str
    asked: int
    changed: int
    gained: int
    lost: int
    before_after: tuple[tuple[int, int], tuple[int, int]] | None
    p: float | None
    test: str = ""

    @property
    def graded(self) -> int:
        return sum(map(sum, self.before_after)) if self.before_after else 0


class _PassCounts:
    def __init__(self) -> None:
        self.asked = self.changed = self.gained = self.lost = self.place = 0
        self.before_after = [[0, 0], [0, 0]]
        self.improved: list[bool] = []  # of the rows that became right or wrong
        self.groups: list[str | None] = []


class PassAccumulator:
    """Counts the states before and after each pass."""

    def __init__(self) -> None:
        self._passes: dict[str, _PassCounts] = {}

    def add(
        self, answer: Answer, is_right: CorrectnessCheck | None, group: str | None = None
    ) -> None:
        """Adds one row.

        ``is_right`` returns whether a value agrees with gold; it is None for a row without usable
        gold.
        """
        if not answer.steps:
            return
        for place, (name, (before, after)) in enumerate(_list_changes(answer)):
            counts = self._passes.setdefault(name, _PassCounts())
            counts.place = max(counts.place, place)
            counts.asked += 1
            counts.changed += None not in (before[1], after[1]) and before[1] != after[1]
            counts.gained += before[1] is None and after[1] is not None
            counts.lost += before[1] is not None and after[1] is None
            was, became = (is_right(*before), is_right(*after)) if is_right else (None, None)
            if was is not None and became is not None:
                counts.before_after[was][became] += 1
                if was != became:
                    counts.improved.append(became)
                    counts.groups.append(group)

    def finish(self) -> tuple[PassSummary, ...]:
        """The passes in the order in which they ran."""
        ranked = sorted(self._passes.items(), key=lambda item: (item[1].place, item[0]))
        return tuple(_build_summary(name, tally) for name, tally in ranked)


def _build_summary(name: str, counts: _PassCounts) -> PassSummary:
    (wrong, mended), (spoilt, right) = counts.before_after
    graded = bool(wrong + mended + spoilt + right)
    improved = np.array(counts.improved, dtype=bool)
    test, p = compare_wins(
        improved, ~improved, build_resampling_units(counts.groups, len(improved))
    )
    return PassSummary(
        name=name,
        asked=counts.asked,
        changed=counts.changed,
        gained=counts.gained,
        lost=counts.lost,
        before_after=((wrong, mended), (spoilt, right)) if graded else None,
        p=p if graded else None,
        test=test if graded else "",
    )


AnswerState = tuple[Status, Value | None]


def _list_changes(answer: Answer) -> Iterator[tuple[str, tuple[AnswerState, AnswerState]]]:
    """Each further pass with the states before and after it."""
    names = [*(step.pass_name for step in answer.steps[1:]), answer.pass_name]
    states: list[AnswerState] = [
        *((step.status, step.value) for step in answer.steps),
        (answer.status, answer.value),
    ]
    yield from zip(names, pairwise(states), strict=True)
