"""What a search has brought: two systems on the same rows, held against each other as `medtask
compare` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from medtask.evaluate.comparison import describe_p
from medtask.evaluate.contest import Contest, Source, join_rows
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.leaderboard import weigh_entrant
from medtask.evaluate.paired import Pair, compare_family, describe_gap, describe_need
from medtask.evaluate.tally import group_rows
from medtask.evaluate.weigh import estimate, estimate_share_of
from medtask.evaluate.words import MEASURES, count_rows
from medtask.records import Answer, Option, Value
from medtask.tasks.task import Task
from medtask.train.material import Lesson

BEFORE, AFTER = "as it was", "tuned"


class _Seen(NamedTuple):
    row: int
    answer: Answer
    text: str
    gold: Value | None
    options: tuple[Option, ...]
    group: str | None


@dataclass(frozen=True, slots=True)
class Gain:
    """``before`` and ``after``: the kind's headline (``measure``) with its interval; ``pair``: the
    second held against the first.
    """

    measure: str
    before: Estimate
    after: Estimate
    pair: Pair

    @property
    def value(self) -> Estimate:
        """By how much the result is ahead, with the paired bootstrap's 95 % interval."""
        return self.pair.headline[1]

    @property
    def shown(self) -> bool:
        """Whether the rows show a gain: the paired test and the interval both have to say so."""
        return self.pair.verdict == "better" and self.value.low is not None and self.value.low > 0

    def tell(self) -> str:
        """ "accuracy 0.410 -> 0.470 on 120 test rows: gain 0.060 (0.010 to 0.110), p = 0.02"."""
        one, other = (f"{figure.value:.3f}" for figure in (self.before, self.after))
        gap = f"gain {describe_gap(self.value)}, paired, {describe_p(self.pair.p)}"
        return (
            f"{MEASURES[self.measure]} {one} -> {other} on "
            f"{count_rows(self.pair.n).replace('row', 'test row')}: {gap}"
        )

    def conclude(self) -> str:
        """One or two sentences that a reader may rely on."""
        return (
            f"{self.tell()}."
            if self.shown
            else f"No gain that these rows can show: {self.tell()}. {self.need()}".strip()
        )

    def need(self) -> str:
        """What it would take to see a gain, where none is shown; "" where one is."""
        if self.shown:
            return ""
        if self.pair.verdict == "worse":
            return (
                "The result is worse than the task as it was: what did better on the "
                "validation rows did so by chance."
            )
        return describe_need(self.pair)

    def to_json(self) -> dict[str, object]:
        """Without record text."""
        figures = {"before": asdict(self.before), "after": asdict(self.after)}
        return {
            "measure": self.measure,
            **figures,
            "shown": self.shown,
            "pair": self.pair.to_json(),
        }


def hold_against(
    task: Task,
    lessons: Sequence[Lesson],
    before: Sequence[Answer],
    after: Sequence[Answer],
    *,
    seed: int = 0,
) -> Gain:
    """Answers to the same rows, in the rows' order: what the second is worth beside the first."""
    contest = join_answers(task, lessons, {BEFORE: before, AFTER: after})
    one, other = (weigh_entrant(contest, entrant) for entrant in contest.entrants)
    (pair,) = compare_family([(other, one)], contest.groups, seed=seed)
    measure, units = pair.headline[0], group_rows(contest.groups, len(contest.ids))
    tell = estimate_share_of if measure == "accuracy" else estimate
    figures = [tell(side.weighed[measure], units, seed=seed) for side in (one, other)]
    return Gain(measure, figures[0], figures[1], pair)


def score_rows(
    task: Task, lessons: Sequence[Lesson], answers: Sequence[Answer]
) -> tuple[float, list[float]]:
    """The kind's headline over all rows, and each row's own part of it, in [0, 1]: right or wrong,
    F1 of its names, of its words, or the share of its fields that are right.
    """
    contest = join_answers(task, lessons, {AFTER: answers})
    weighed = next(iter(weigh_entrant(contest, contest.entrants[0]).weighed.values()))
    over, under = np.asarray(weighed.sums.toarray(), dtype=np.float64).T
    # Nothing to find and nothing found is right.
    scores = np.divide(over, under, out=np.ones_like(over), where=under > 0)
    by_id = dict(zip(contest.ids, scores.tolist(), strict=True))
    return weighed.value(), [by_id.get(lesson.record.id, 0.0) for lesson in lessons]


def join_answers(
    task: Task, lessons: Sequence[Lesson], systems: Mapping[str, Sequence[Answer]]
) -> Contest:
    """Systems' answers to lessons, each in the lessons' order, as a contest on these rows."""
    sources = [
        Source(name, partial(_list_rows, lessons, answers)) for name, answers in systems.items()
    ]
    return join_rows(task.kind, [label.name for label in task.labels], task.abstention, sources)


def _list_rows(lessons: Sequence[Lesson], answers: Sequence[Answer]) -> list[_Seen]:
    return [
        _Seen(
            lesson.row,
            answer,
            lesson.prompt.text,
            lesson.record.gold,
            lesson.prompt.options,
            lesson.record.group,
        )
        for lesson, answer in zip(lessons, answers, strict=True)
    ]
