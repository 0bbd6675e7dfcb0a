"""Rounds of a cascade: whether to teach the student more rows, and whether it pays."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.display import format_duration
from medtask.evaluation.calibration.table_threshold import SamplePlan

GROWTH = 1.5
MAX_RANDOM_SHARE = 3  # at most one of this many prompts is taught in random order
# In each of these rounds the model answers this share of the rows that are predicted to be left to
# it: those in which the student is least confident.
DOUBTFUL_ROUNDS, DOUBTFUL_SHARE = 4, 1 / 6


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

    @property
    def doubtful_share(self) -> float:
        """The share of the other rows that the model answers in the next round."""
        return DOUBTFUL_SHARE * (1 - self.plan.accepted)

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
