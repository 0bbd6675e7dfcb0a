"""Checkpoints of a training and its best state on disk, which are loaded only if complete.

A marker file is added to a checkpoint once all its files are written. A checkpoint without the
marker is removed and never loaded.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from medtask.atomic_files import make_storage_error, replace_text
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.training.training_context import is_main_process
from medtask.training.validation_metrics import ValidationResult

COMPLETE_MARKER = "whole"  # the file that marks a checkpoint as complete
BEST_FOLDER = "best"
CHECKPOINTS_FOLDER = "checkpoints"
MAX_CHECKPOINTS = 2


class TrainableWeights(Protocol):
    """The trained part of a model, as files."""

    def save(self, folder: Path) -> None:
        """Write the weights into an existing folder."""

    def load(self, folder: Path) -> None:
        """Load weights into the model that were written by ``save``."""


class BestCheckpoint(JsonContent):
    """The step of the best state so far, with its validation loss and score."""

    step: int
    loss: float
    score: float | None


def save_best_checkpoint(
    work_folder: Path, weights: TrainableWeights, step: int, result: ValidationResult
) -> None:
    """Replace the best state; the old one stays complete until the new one is."""
    new, old = work_folder / f"{BEST_FOLDER}-{step}", work_folder / BEST_FOLDER
    with convert_storage_errors(work_folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        weights.save(new)
        replace_text(
            new / "best.json",
            json.dumps({"step": step, "loss": result.loss, "score": result.score}) + "\n",
        )
        _sync_files(new)
        # Two renames, because a folder cannot replace a folder that contains files.
        # read_best_checkpoint looks for both names.
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)


def read_best_checkpoint(work_folder: Path) -> BestCheckpoint | None:
    """The best complete state; None if none was saved."""
    folder = find_best_folder(work_folder)
    return None if folder is None else _read_best_file(folder)


def find_best_folder(work_folder: Path) -> Path | None:
    """The folder of the best complete state."""
    states = {
        folder: state
        for folder in work_folder.glob(f"{BEST_FOLDER}*")
        if (state := _read_best_file(folder)) is not None
    }
    return min(states, key=lambda folder: states[folder].loss, default=None)


def require_best_folder(work_folder: Path) -> Path:
    """The folder of the best state of a training that has ended."""
    folder = find_best_folder(work_folder)
    assert folder is not None, "a training begins with a validation"
    return folder


def _read_best_file(folder: Path) -> BestCheckpoint | None:
    try:
        return load_checked(folder / "best.json", BestCheckpoint)
    except (FileNotFoundError, InvalidJsonFile):
        return None


def find_checkpoint(work_folder: Path) -> Path | None:
    """The last complete checkpoint; None if there is none. Incomplete ones are removed."""
    folder = work_folder / CHECKPOINTS_FOLDER
    complete = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE_MARKER).is_file():
            complete.append(path)
        elif is_main_process():
            shutil.rmtree(path, ignore_errors=True)
    return max(complete, key=get_checkpoint_step, default=None)


def find_resume_step(work_folder: Path) -> int:
    """The step from which a training resumes; 0 without a complete checkpoint."""
    checkpoint = find_checkpoint(work_folder)
    return 0 if checkpoint is None else get_checkpoint_step(checkpoint)


def get_checkpoint_step(checkpoint: Path) -> int:
    """The number of steps that were taken before a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_complete(checkpoint: Path) -> None:
    """Write the marker file once all files of a checkpoint are on the disk."""
    with convert_storage_errors(checkpoint):
        _sync_files(checkpoint)
        replace_text(checkpoint / COMPLETE_MARKER, "")


def remove_old_checkpoints(folder: Path) -> None:
    """Keep only the newest checkpoints. Markers go first, in case removal is interrupted."""
    for path in sorted(folder.glob("checkpoint-*"), key=get_checkpoint_step)[:-MAX_CHECKPOINTS]:
        with suppress(OSError):
            (path / COMPLETE_MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def convert_storage_errors(folder: Path) -> Iterator[None]:
    """Raise errors of saving as StorageError; libraries wrap OSError in other exceptions."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise make_storage_error(folder, error) from error
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        reason = OSError(errno.ENOSPC, str(error).partition("\n")[0])
        raise make_storage_error(folder, reason) from error


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
