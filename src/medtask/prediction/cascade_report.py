"""The decision and the result of a cascade, as a run's manifest keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from medtask.prediction.student import read_answer_value
from medtask.records import Answer, list_names
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class CascadeDecision:
    """What is decided before the student answers a row. A resumed run follows it.

    Attributes:
        taught: Number of distinct prompts that the student learns; 0 while only its features are
            chosen.
        tested: Number of rows of the sample.
        max_differences: Rows of the sample that may differ above the threshold.
        threshold: The confidence above which the student answers; None if it answers no row.
        accepted: Rows of the sample above the threshold.
        differences: Rows of the sample above the threshold with another answer than the model's.
        by_label: For each label of the model's answers in the sample: rows, rows above the
            threshold, and rows above it whose answer does not have the label.
        doubtful: How many of the taught prompts were chosen because the student was not sure, by
            round. The others are the first ones of the random order.
        refusal: Why the student answers no row.
        uses_vectors: Whether sentence vectors are features of the student.
    """

    taught: int
    tested: int = 0
    max_differences: int = -1
    threshold: float | None = None
    accepted: int = 0
    differences: int = 0
    by_label: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    doubtful: tuple[int, ...] = ()
    refusal: str | None = None
    uses_vectors: bool = False


@dataclass(frozen=True, slots=True)
class CascadeReport:
    """The result of a cascade.

    Attributes:
        alpha: Share of all rows that may differ.
        level: Probability of that.
        rows: Number of rows of the table.
        model_rows: Rows that the model has answered, and their copies.
        student_rows: Rows that the student has answered.
        audited: Distinct prompts above the threshold that the model has answered as well.
        audit_differences: Those of them with another answer.
        student_s: Seconds that the student took in this session.
        saved_s: Seconds that the model would have taken for the student's rows, less these.
        decision: What was decided before.
    """

    alpha: float
    level: float
    rows: int
    model_rows: int
    student_rows: int
    audited: int
    audit_differences: int
    student_s: float
    saved_s: float
    decision: CascadeDecision

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `decision_from_json` reads the decision back."""
        return asdict(self)


def decision_from_json(content: Mapping[str, Any]) -> CascadeDecision:
    """The decision from ``asdict``. Raises ValueError if not valid."""
    return TypeAdapter(CascadeDecision).validate_python(content)


def count_by_label(
    task: Task, answers: Sequence[Answer], models: Sequence[Answer], accepted: NDArray[np.bool_]
) -> dict[str, tuple[int, int, int]]:
    """See `CascadeDecision`."""
    counts: dict[str, list[int]] = {}
    for answer, model, is_accepted in zip(answers, models, accepted.tolist(), strict=True):
        given = list_names(read_answer_value(task, answer))
        for name in list_names(read_answer_value(task, model)):
            tally = counts.setdefault(name, [0, 0, 0])
            tally[0] += 1
            tally[1] += is_accepted
            tally[2] += is_accepted and name not in given
    return {name: (rows, above, missed) for name, (rows, above, missed) in counts.items()}
