"""Prediction for kind ``label``: the most probable label."""

from __future__ import annotations

from collections.abc import Sequence

from medtask.prediction.kinds.base import KindPrediction
from medtask.prediction.probabilities import OutcomeProbabilities
from medtask.records import Prompt
from medtask.tasks.task import ScoredField, SingleLabel


class LabelPrediction(KindPrediction[SingleLabel]):
    """Scores one branch over the labels, whose probabilities sum to 1."""

    def name_probabilities(
        self, prompt: Prompt, rows: Sequence[Sequence[float]], fields: Sequence[ScoredField]
    ) -> OutcomeProbabilities:
        names = [label.name for label in self.task.candidates]
        return dict(zip(names, rows[0], strict=True))
