"""Rounds of a cascade: whether to teach the student more rows, and whether it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtask.display import format_duration
from medtask.evaluation.calibration.table_threshold import SamplePlan

GROWTH = 1.5
# With rounds that grow by half, students of the sets in benchmarks/cascade.py leave this much less
# to the model from one round to the next, at the beginning.
FIRST_IMPROVEMENT = 0.85
MAX_UNPROMISING_SHARE = 3  # without a promising student, at most one of this many rows is taught


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Seconds of a cross-validation, and seconds per row of the student and of the model."""

    learning_s: float
    student_s_per_row: float
    model_s_per_row: float


@dataclass(frozen=True, slots=True)
class CascadeRound:
    """What is predicted for a student that learns the first prompts of a table.

    Attributes:
        taught: How many prompts it learns.
        population: Number of rows with other prompts.
        min_rows: The fewest rows that a student must answer.
        plan: The best sample size, and the share of rows that the student would answer.
        times: Measured times.
    """

    taught: int
    population: int
    min_rows: float
    plan: SamplePlan
    times: RoundTimes

    @property
    def is_promising(self) -> bool:
        """Whether the student is predicted to answer enough rows."""
        return self.plan.size > 0 and self.plan.accepted * self.population >= self.min_rows

    def count_left(self, taught: float, population: float, accepted: float) -> float:
        """How many rows are left to the model, without copies of taught rows."""
        return taught + self.plan.size + (1 - accepted) * (population - self.plan.size)

    def find_refusal(self) -> str | None:
        """Why the student does not pay; None if it may pay."""
        times = self.times
        share = self.plan.accepted if self.is_promising else 1.0
        saved_s = share * self.population * times.model_s_per_row
        if saved_s > times.learning_s + self.population * times.student_s_per_row:
            return None
        return (
            "a student would take longer than the model: it needs about "
            f"{1000 * times.student_s_per_row:.2g} ms a row to answer and "
            f"{format_duration(times.learning_s)} to learn, the model "
            f"{1000 * times.model_s_per_row:.2g} ms a row"
        )


def should_grow(rounds: Sequence[CascadeRound], count: int) -> bool:
    """Whether teaching more of ``count`` prompts is predicted to leave fewer to the model."""
    last = rounds[-1]
    grown = min(count, GROWTH * last.taught)
    if not last.is_promising:
        return grown * MAX_UNPROMISING_SHARE <= count
    improvement = FIRST_IMPROVEMENT
    if len(rounds) > 1 and rounds[-2].plan.accepted < 1:
        improvement = (1 - last.plan.accepted) / (1 - rounds[-2].plan.accepted)
    population = last.population * (count - grown) / (count - last.taught)
    rejected = (1 - last.plan.accepted) * min(1.0, max(0.7, improvement))
    return last.count_left(grown, population, 1 - rejected) < last.count_left(
        last.taught, last.population, last.plan.accepted
    )
