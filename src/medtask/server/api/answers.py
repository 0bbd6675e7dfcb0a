"""Answers of models as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from medtask.records import Answer
from medtask.runs.output_columns import get_cell, list_output_columns
from medtask.tasks.task import Task


class AnswerView(BaseModel):
    """The answer for one text; the columns of a run's table.

    A text without an answer has ``answer`` null, and a ``status`` and ``reason`` that say why.
    """

    model_config = ConfigDict(populate_by_name=True)

    answer: Any = Field(description="A label or letter, several of them, a text, or an object.")
    confidence: float | None = Field(description="The probability of the answer.")
    status: str
    reason: str | None
    pass_name: str = Field(alias="pass")
    probabilities: dict[str, float] | None = None
    written: str | None = None
    quotes: Any = None
    analysis: str | None = Field(None, description="What the model wrote before its answer.")


def describe_answer(task: Task, answer: Answer) -> dict[str, Any]:
    """The fields of `AnswerView`."""
    columns = [column.name for column in list_output_columns(task, rounded=False)]
    view: dict[str, Any] = {name: get_cell(name, answer) for name in columns}
    if answer.probabilities is not None:
        view["probabilities"] = dict(answer.probabilities)
    view["analysis"] = answer.thoughts
    return view
