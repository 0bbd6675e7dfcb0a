"""Prediction for kind ``labels``: all labels that reach their thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.prediction.kinds.base import DEFAULT_THRESHOLD, KindPrediction
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.records import Answer, Prompt, Scores
from medtask.tasks.task import MultiLabel, ScoredField, Task


class LabelsPrediction(KindPrediction[MultiLabel]):
    """Scores one branch for each label, over yes and no."""

    def name_probabilities(
        self,
        prompt: Prompt,
        scores: Scores,
        rows: Sequence[Sequence[float]],
        fields: Sequence[ScoredField],
    ) -> OutcomeProbabilities:
        return {label.name: row[0] for label, row in zip(self.task.labels, rows, strict=True)}

    def choose(self, record_id: str, probabilities: Probabilities) -> Answer:
        value = choose_labels(self.spec, probabilities.by_outcome)
        return self.choose_several(record_id, value, probabilities)

    def replace_thresholds(self, thresholds: Mapping[str, float]) -> Task | None:
        return replace(self.task, answer_spec=replace(self.spec, thresholds=thresholds))


def choose_labels(spec: MultiLabel, probabilities: OutcomeProbabilities) -> tuple[str, ...]:
    """The labels that reach their thresholds, in the task's order.

    ``at_most`` and ``at_least_one`` select by the margin above the threshold, then by the task's
    order.
    """
    margins = {
        name: probability - spec.thresholds.get(name, DEFAULT_THRESHOLD)
        for name, probability in probabilities.items()
    }
    ranked = sorted(margins, key=lambda name: -margins[name])
    chosen = [name for name in ranked if margins[name] >= 0] or ranked[: int(spec.at_least_one)]
    kept = frozenset(chosen[: spec.at_most])
    return tuple(name for name in probabilities if name in kept)
