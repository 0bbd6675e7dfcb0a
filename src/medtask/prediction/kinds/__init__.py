"""Prompting and deciding, with one module for each kind of question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtask.prediction.kinds.answer import AnswerPrediction
from medtask.prediction.kinds.base import KindPrediction
from medtask.prediction.kinds.choice import ChoicePrediction
from medtask.prediction.kinds.fields import FieldsPrediction
from medtask.prediction.kinds.label import LabelPrediction
from medtask.prediction.kinds.labels import LabelsPrediction
from medtask.tasks.task import Task

_PREDICTIONS: Mapping[str, type[KindPrediction[Any]]] = {
    "label": LabelPrediction,
    "labels": LabelsPrediction,
    "choice": ChoicePrediction,
    "answer": AnswerPrediction,
    "fields": FieldsPrediction,
}


def get_kind_prediction(task: Task) -> KindPrediction[Any]:
    """The `KindPrediction` for a task's kind."""
    return _PREDICTIONS[task.kind](task)
