"""The interface of training methods: their arguments and results."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtask.engines.model_metadata import ModelMetadata
from medtask.engines.registry import choose_engine
from medtask.engines.specs import find_engine
from medtask.errors import MissingExtra
from medtask.runs.signals import SignalState
from medtask.training.methods import TORCH_BACKEND, TRAINING_BACKENDS, TrainingBackend
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData
from medtask.training.training_log import TrainingLog, TrainingObserver

# Folders inside the folder of a training: the state to resume from, and the unfinished model.
WORK_FOLDER, DRAFT_FOLDER = ".training", ".draft"


def is_main_process() -> bool:
    """Whether this process writes files in distributed training (accelerate, torchrun)."""
    return int(os.environ.get("RANK", "0")) == 0


def count_processes() -> int:
    """The number of processes that train together."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")))


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """The folders and observers of a method.

    Attributes:
        draft_folder: An empty folder for the files of the finished model.
        work_folder: The state that a killed training resumes from; removed at the end.
        log: Keeps points and passes them to ``observer``.
        observer: Receives events.
        signals: Reports whether a signal was received.
    """

    draft_folder: Path
    work_folder: Path
    log: TrainingLog
    observer: TrainingObserver
    signals: SignalState


@dataclass(frozen=True, slots=True)
class MethodResult:
    """The result of a method.

    Attributes:
        trained_model: The metadata of the model in the draft folder, without hashes.
        interrupted: Whether a signal ended training; the draft folder then has the best state so
            far.
        notes: Notes for the user.
        facts: Further facts for the model card and the manifest, such as counts and versions.
        thresholds: For several labels, the thresholds that were fitted on training rows that the
            predicting model had not seen; without them, validation rows are used.
    """

    trained_model: ModelMetadata
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)


# A training method. It receives the data of one or several tasks; a method that supports only one
# task raises UsageError for more.
FitFunction = Callable[[Sequence[TrainingData], Recipe, TrainingContext], MethodResult]
# Describes the training of a language model in lines, without starting it.
PreviewFunction = Callable[[Sequence[TrainingData], Recipe], list[str]]


def load_fit_function(recipe: Recipe) -> FitFunction:
    """Import the function that trains by a recipe."""
    fit: FitFunction = _import(recipe.spec.fit or _find_backend(recipe).fit)
    return fit


def load_preview_function(recipe: Recipe) -> PreviewFunction:
    """Import the function that describes a training of a language model."""
    preview: PreviewFunction = _import(_find_backend(recipe).preview)
    return preview


def _find_backend(recipe: Recipe) -> TrainingBackend:
    return TRAINING_BACKENDS.get(choose_engine(recipe.base).engine, TORCH_BACKEND)


def _import(location: str) -> Any:
    module, _, name = location.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mlx", "mlx_lm"):
            raise
        raise MissingExtra("mlx-lm is not installed here", fix=find_engine("mlx").install) from None
