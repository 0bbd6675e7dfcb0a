"""The seam between a training and the methods: what a method is given, and what it gives back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medtask.engines.model_metadata import ModelMetadata
from medtask.runs.signals import SignalState
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData
from medtask.training.training_log import TrainingLog, TrainingObserver

# In the folder of a training: what it resumes from, and the finished model before it is put in its
# place.
WORK_FOLDER, DRAFT_FOLDER = ".training", ".draft"


def is_main_process() -> bool:
    """Whether this process is the one that writes, of those that train together (accelerate launch,
    torchrun).
    """
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """``draft_folder``: an empty folder for the finished model's files. ``work_folder``: what a
    killed training resumes from (checkpoints, the best state so far); it lasts until the model
    is finished. ``log`` keeps points, shows them to ``observer`` too. ``signals``: check()
    raises Interrupted once a signal came.
    """

    draft_folder: Path
    work_folder: Path
    log: TrainingLog
    observer: TrainingObserver
    signals: SignalState


@dataclass(frozen=True, slots=True)
class MethodResult:
    """``trained_model``: the contract of what lies in the draft, its hashes still missing.
    ``interrupted``: a signal ended the training early, and the draft holds the best state until
    then. ``facts``: what the model's card and manifest should tell besides (numbers of weights,
    of steps, versions).
    """

    trained_model: ModelMetadata
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class FitFunction(Protocol):
    """A method. ``materials``: one for each task; methods that know one task alone raise UsageError
    for more.
    """

    def __call__(
        self, training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
    ) -> MethodResult: ...
