"""The gain of a search: the original task and the result compared on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

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
from medtask.records import Answer, AnsweredRow
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingExample

BEFORE, AFTER = "original", "tuned"

STOPPED_TEXT = (
    "The search was stopped: the best result so far was not compared with the original on the test "
    "rows, so its gain is not known."
)


@dataclass(frozen=True, slots=True)
class Gain:
    """The headline metric before and after a search, and the paired comparison."""

    metric: str
    before: Metric
    after: Metric
    pair: PairedComparison

    @property
    def value(self) -> Metric:
        """The gain, with the 95 % interval of a paired bootstrap."""
        return self.pair.headline[1]

    @property
    def is_significant(self) -> bool:
        """Whether both the paired test and the interval, if there is one, show a gain."""
        low = self.value.low  # None if all rows gain the same
        return self.pair.verdict == "better" and (low is None or low > 0)

    def describe(self) -> str:
        """ "accuracy 0.410 -> 0.470 on 120 test rows: gain 0.060 (0.010 to 0.110), p = 0.02"."""
        one, other = (f"{figure.value:.3f}" for figure in (self.before, self.after))
        gap = f"gain {format_difference(self.value)}, paired, {format_p_value(self.pair.p)}"
        return (
            f"{get_metric_title(self.metric)} {one} -> {other} on "
            f"{format_row_count(self.pair.n).replace('row', 'test row')}: {gap}"
        )

    def summarize(self) -> str:
        """The gain in one or two sentences."""
        return (
            f"{self.describe()}."
            if self.is_significant
            else (
                f"No significant gain on these rows: {self.describe()}. "
                f"{self.explain_missing_gain()}"
            ).strip()
        )

    def explain_missing_gain(self) -> str:
        """Why there is no significant gain, and how many rows would show one; "" if there is a
        gain.
        """
        if self.is_significant:
            return ""
        if self.pair.verdict == "worse":
            return (
                "The result is worse than the original task: it was better on the validation rows "
                "by chance."
            )
        return describe_rows_needed(self.pair)

    def to_json(self) -> dict[str, object]:
        """The gain as JSON values, without texts of rows."""
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
    """The gain of the answers ``after`` over ``before``, both in the rows' order."""
    rows = join_answers(task, examples, {BEFORE: before, AFTER: after})
    one, other = (compute_system_metrics(rows, system) for system in rows.systems)
    (pair,) = compare_pairs([(other, one)], rows.groups, seed=seed)
    measure, units = pair.headline[0], build_resampling_units(rows.groups, len(rows.ids))
    estimate = estimate_proportion_metric if measure == "accuracy" else estimate_metric
    figures = [estimate(side.metric_sums[measure], units, seed=seed) for side in (one, other)]
    return Gain(measure, figures[0], figures[1], pair)


def score_answers(
    task: Task, examples: Sequence[TrainingExample], answers: Sequence[Answer]
) -> tuple[float, list[float]]:
    """The headline metric over all rows, and each row's score in [0, 1].

    A row's score is whether it is right, the F1 of its labels or words, or the share of its fields
    that are right.
    """
    rows = join_answers(task, examples, {AFTER: answers})
    sums = next(iter(compute_system_metrics(rows, rows.systems[0]).metric_sums.values()))
    numerators, denominators = np.asarray(sums.row_sums.toarray(), dtype=np.float64).T
    # A row in which gold and answer are both empty is right.
    scores = np.divide(
        numerators, denominators, out=np.ones_like(numerators), where=denominators > 0
    )
    by_id = dict(zip(rows.ids, scores.tolist(), strict=True))
    return sums.compute_value(), [by_id.get(example.record.id, 0.0) for example in examples]


def join_answers(
    task: Task, examples: Sequence[TrainingExample], systems: Mapping[str, Sequence[Answer]]
) -> ComparisonRows:
    """Align the answers of the systems, each in the rows' order."""
    sources = [
        SystemSource(name, partial(_build_answered_examples, examples, answers))
        for name, answers in systems.items()
    ]
    return align_rows(task.kind, [label.name for label in task.labels], task.abstain_name, sources)


def _build_answered_examples(
    examples: Sequence[TrainingExample], answers: Sequence[Answer]
) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            example.row,
            answer,
            example.prompt.text,
            example.record.gold,
            example.prompt.options,
            example.record.group,
        )
        for example, answer in zip(examples, answers, strict=True)
    ]
