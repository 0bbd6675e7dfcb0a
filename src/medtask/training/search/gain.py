"""What a search has brought: two systems on the same rows, held against each other as `medtask
compare` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from medtask.display import format_row_count
from medtask.evaluation.comparison.aligned_rows import ComparisonRows, SystemSource, align_rows
from medtask.evaluation.comparison.leaderboard import compute_system_metrics
from medtask.evaluation.comparison.paired import (
    PairedComparison,
    compare_pairs,
    describe_rows_needed,
)
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.formatting import format_difference, format_p_value
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.metric_sums import estimate_metric, estimate_proportion_metric
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.records import Answer, Option, Value
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingExample

BEFORE, AFTER = "as it was", "tuned"


class _AnsweredExample(NamedTuple):
    row: int
    answer: Answer
    text: str
    gold: Value | None
    options: tuple[Option, ...]
    group: str | None


@dataclass(frozen=True, slots=True)
class Gain:
    """``before`` and ``after``: the kind's headline (``metric``) with its interval; ``pair``: the
    second held against the first.
    """

    metric: str
    before: Metric
    after: Metric
    pair: PairedComparison

    @property
    def value(self) -> Metric:
        """By how much the result is ahead, with the paired bootstrap's 95 % interval."""
        return self.pair.headline[1]

    @property
    def is_significant(self) -> bool:
        """Whether the rows show a gain: the paired test and the interval both have to say so."""
        return self.pair.verdict == "better" and self.value.low is not None and self.value.low > 0

    def describe(self) -> str:
        """ "accuracy 0.410 -> 0.470 on 120 test rows: gain 0.060 (0.010 to 0.110), p = 0.02"."""
        one, other = (f"{figure.value:.3f}" for figure in (self.before, self.after))
        gap = f"gain {format_difference(self.value)}, paired, {format_p_value(self.pair.p)}"
        return (
            f"{get_metric_title(self.metric)} {one} -> {other} on "
            f"{format_row_count(self.pair.n).replace('row', 'test row')}: {gap}"
        )

    def summarize(self) -> str:
        """One or two sentences that a reader may rely on."""
        return (
            f"{self.describe()}."
            if self.is_significant
            else (
                f"No gain that these rows can show: {self.describe()}. "
                f"{self.explain_missing_gain()}"
            ).strip()
        )

    def explain_missing_gain(self) -> str:
        """What it would take to see a gain, where none is shown; "" where one is."""
        if self.is_significant:
            return ""
        if self.pair.verdict == "worse":
            return (
                "The result is worse than the task as it was: what did better on the "
                "validation rows did so by chance."
            )
        return describe_rows_needed(self.pair)

    def to_json(self) -> dict[str, object]:
        """Without record text."""
        figures = {"before": asdict(self.before), "after": asdict(self.after)}
        return {
            "measure": self.metric,
            **figures,
            "shown": self.is_significant,
            "pair": self.pair.to_json(),
        }


def measure_gain(
    task: Task,
    examples: Sequence[TrainingExample],
    before: Sequence[Answer],
    after: Sequence[Answer],
    *,
    seed: int = 0,
) -> Gain:
    """Answers to the same rows, in the rows' order: what the second is worth beside the first."""
    contest = join_answers(task, examples, {BEFORE: before, AFTER: after})
    one, other = (compute_system_metrics(contest, entrant) for entrant in contest.systems)
    (pair,) = compare_pairs([(other, one)], contest.groups, seed=seed)
    measure, units = pair.headline[0], build_resampling_units(contest.groups, len(contest.ids))
    tell = estimate_proportion_metric if measure == "accuracy" else estimate_metric
    figures = [tell(side.metric_sums[measure], units, seed=seed) for side in (one, other)]
    return Gain(measure, figures[0], figures[1], pair)


def score_answers(
    task: Task, examples: Sequence[TrainingExample], answers: Sequence[Answer]
) -> tuple[float, list[float]]:
    """The kind's headline over all rows, and each row's own part of it, in [0, 1]: right or wrong,
    F1 of its names, of its words, or the share of its fields that are right.
    """
    contest = join_answers(task, examples, {AFTER: answers})
    weighed = next(iter(compute_system_metrics(contest, contest.systems[0]).metric_sums.values()))
    over, under = np.asarray(weighed.row_sums.toarray(), dtype=np.float64).T
    # Nothing to find and nothing found is right.
    scores = np.divide(over, under, out=np.ones_like(over), where=under > 0)
    by_id = dict(zip(contest.ids, scores.tolist(), strict=True))
    return weighed.compute_value(), [by_id.get(example.record.id, 0.0) for example in examples]


def join_answers(
    task: Task, examples: Sequence[TrainingExample], systems: Mapping[str, Sequence[Answer]]
) -> ComparisonRows:
    """Systems' answers to lessons, each in the lessons' order, as a contest on these rows."""
    sources = [
        SystemSource(name, partial(_build_answered_examples, examples, answers))
        for name, answers in systems.items()
    ]
    return align_rows(task.kind, [label.name for label in task.labels], task.abstain_name, sources)


def _build_answered_examples(
    examples: Sequence[TrainingExample], answers: Sequence[Answer]
) -> list[_AnsweredExample]:
    return [
        _AnsweredExample(
            example.row,
            answer,
            example.prompt.text,
            example.record.gold,
            example.prompt.options,
            example.record.group,
        )
        for example, answer in zip(examples, answers, strict=True)
    ]
