"""The length of a training, the steps at which it is validated, and the check of its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medtask.errors import EngineError
from medtask.training.recipe import Recipe

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The length of a training.

    Attributes:
        steps: Steps of the whole training.
        epoch_steps: Steps of one epoch.
        validation_steps: Steps after which the model is validated; always includes the last one.
    """

    steps: int
    epoch_steps: int
    validation_steps: frozenset[int]


def plan_training(epoch_steps: int, recipe: Recipe) -> TrainingPlan:
    """The plan of a training with ``epoch_steps`` steps per epoch."""
    steps = max(1, math.ceil(epoch_steps * recipe.count_epochs(epoch_steps)))
    every = max(1.0, epoch_steps / recipe.validations)
    marks = {
        min(steps, max(1, round(every * turn))) for turn in range(1, math.ceil(steps / every) + 1)
    }
    return TrainingPlan(steps, epoch_steps, frozenset({*marks, steps}))


def check_finite_loss(loss: float, step: int) -> None:
    """Raise EngineError if a training has diverged."""
    if not math.isfinite(loss):
        raise EngineError(
            f"the loss is {loss} at step {step}: the training has diverged",
            fix="train again with a lower --rate (a tenth, for example), in another folder",
        )
