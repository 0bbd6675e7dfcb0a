"""The length of a training, and what the loops of all libraries have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medtask.errors import EngineError
from medtask.hardware import is_out_of_memory
from medtask.training.checkpoints import (
    TrainableWeights,
    read_best_checkpoint,
    save_best_checkpoint,
)
from medtask.training.recipe import Recipe
from medtask.training.training_context import TrainingContext, is_main_process
from medtask.training.training_log import TrainingPoint, count_validations_since_best
from medtask.training.validation_metrics import ValidationResult

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


@dataclass(frozen=True, slots=True)
class TrainingLoop:
    """The parts of a training loop other than the model and its batches.

    Attributes:
        weights: The trained weights, as stored in checkpoints.
        validate: Measures the current state on the validation rows.
    """

    recipe: Recipe
    context: TrainingContext
    plan: TrainingPlan
    weights: TrainableWeights
    validate: Callable[[], ValidationResult]

    @property
    def is_out_of_patience(self) -> bool:
        """Whether training stops because the validation loss has not become lower."""
        patience = self.recipe.patience * self.recipe.validations
        return count_validations_since_best(self.context.log.points) >= patience

    def log_point(self, step: int, **measured: Any) -> None:
        """Add a point to the training log."""
        epoch = round(step / self.plan.epoch_steps, 4)
        self.context.log.add(TrainingPoint(step, self.plan.steps, epoch, **measured))

    def add_validation(self, step: int, result: ValidationResult) -> None:
        """Log a validation, and save the state if it is the best so far."""
        self.log_point(step, validation_loss=result.loss, score=result.score)
        best = read_best_checkpoint(self.context.work_folder)
        if is_main_process() and (best is None or result.loss < best.loss):
            save_best_checkpoint(self.context.work_folder, self.weights, step, result)


@contextmanager
def convert_memory_errors(remedies: str) -> Iterator[None]:
    """Raise errors of a training step that ran out of memory as EngineError with remedies."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) and "alloc" not in str(error).lower():
            raise
        raise EngineError(
            "a training step needs more memory than is available",
            fix=f"{remedies}; the same command resumes from the last checkpoint",
        ) from error


def check_finite_loss(loss: float, step: int) -> None:
    """Raise EngineError if a training has diverged."""
    if not math.isfinite(loss):
        raise EngineError(
            f"the loss is {loss} at step {step}: the training has diverged",
            fix="train again with a lower --rate (a tenth, for example), in another folder",
        )
