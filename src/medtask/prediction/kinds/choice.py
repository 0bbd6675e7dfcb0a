"""Prediction for kind ``choice``: the most probable option, or all that apply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.prediction.kinds.base import CAPABLE_ENGINE_FIX, KindPrediction, select_outcomes
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.records import Answer, Prompt
from medtask.tasks.task import MultipleChoice, ScoredField, Task


class ChoicePrediction(KindPrediction[MultipleChoice]):
    """Scores branches over the letters or the texts of a row's options."""

    def check_engine(self, engine: Engine) -> None:
        super().check_engine(engine)
        if self.spec.readout == "text" and engine.caps.score != "exact":
            raise EngineError(
                f"{engine.info.title} cannot score whole texts, which `readout: text` needs",
                fix=f"set `readout: letter`, or {CAPABLE_ENGINE_FIX}",
            )

    def without_reordering(self) -> Task:
        return replace(self.task, answer_spec=replace(self.spec, debias="none"))

    def name_probabilities(
        self, prompt: Prompt, rows: Sequence[Sequence[float]], fields: Sequence[ScoredField]
    ) -> OutcomeProbabilities:
        letters = [option.letter for option in prompt.options]
        if self.spec.several:
            return {letter: row[0] for letter, row in zip(letters, rows, strict=True)}
        return dict(zip(letters, _average_orders(rows), strict=True))

    def choose(self, record_id: str, probabilities: Probabilities) -> Answer:
        if not self.spec.several:
            return super().choose(record_id, probabilities)
        value = select_outcomes(probabilities.by_outcome, {}, self.spec.at_least_one)
        return self.choose_several(record_id, value, probabilities)


def _average_orders(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean over cyclic orders: in order j, the i-th letter shows option (i + j) mod n."""
    count = len(rows[0])
    return [
        math.fsum(row[(option - shift) % count] for shift, row in enumerate(rows)) / len(rows)
        for option in range(count)
    ]
