"""Prediction for kind ``labels``: all labels that reach their thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.prediction.kinds.base import KindPrediction, select_outcomes
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.records import Answer, Prompt
from medtask.tasks.task import MultiLabel, ScoredField, Task


class LabelsPrediction(KindPrediction[MultiLabel]):
    """Scores one branch for each label, over yes and no."""

    def name_probabilities(
        self, prompt: Prompt, rows: Sequence[Sequence[float]], fields: Sequence[ScoredField]
    ) -> OutcomeProbabilities:
        return {label.name: row[0] for label, row in zip(self.task.labels, rows, strict=True)}

    def choose(self, record_id: str, probabilities: Probabilities) -> Answer:
        spec = self.spec
        value = select_outcomes(
            probabilities.by_outcome, spec.thresholds, spec.at_least_one, spec.at_most
        )
        return self.choose_several(record_id, value, probabilities)

    def replace_thresholds(self, thresholds: Mapping[str, float]) -> Task | None:
        return replace(self.task, answer_spec=replace(self.spec, thresholds=thresholds))
