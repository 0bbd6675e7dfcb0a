"""The seam between a training and the methods: what a method is given, and what it gives back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medtask.engines.trained import Trained
from medtask.runs.interrupt import Signals
from medtask.train.journal import Journal, Watch
from medtask.train.material import Material
from medtask.train.recipe import Recipe

# In the folder of a training: what it resumes from, and the finished model before it is put in its
# place.
WORK, DRAFT = ".training", ".draft"


def is_first() -> bool:
    """Whether this process is the one that writes, of those that train together (accelerate launch,
    torchrun).
    """
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, slots=True)
class Desk:
    """``draft``: an empty folder for the finished model's files. ``work``: what a killed training
    resumes from (checkpoints, the best state so far); it lasts until the model is finished.
    ``journal`` keeps points, shows them to ``watch`` too. ``signals``: check() raises Interrupted
    once a signal came.
    """

    draft: Path
    work: Path
    journal: Journal
    watch: Watch
    signals: Signals


@dataclass(frozen=True, slots=True)
class Fitted:
    """``trained``: the contract of what lies in the draft, its hashes still missing. ``stopped``: a
    signal ended the training early, and the draft holds the best state until then. ``facts``: what
    the model's card and manifest should tell besides (numbers of weights, of steps, versions).
    """

    trained: Trained
    stopped: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class Fit(Protocol):
    """A method. ``materials``: one for each task; methods that know one task alone raise UsageError
    for more.
    """

    def __call__(self, materials: Sequence[Material], recipe: Recipe, desk: Desk) -> Fitted: ...
