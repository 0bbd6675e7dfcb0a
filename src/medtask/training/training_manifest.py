"""``training.json``: what a training notes of itself, from its first step on; by it a folder's
training is known again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_text
from medtask.engines.model_metadata import TRAINING_FILE
from medtask.errors import RunMismatch, StorageError
from medtask.runs.manifest import list_differences
from medtask.training.recipe import Recipe
from medtask.training.training_context import is_main_process
from medtask.training.training_data import RowSelection, TrainingData

FORMAT = 1


def identify_training(
    training_data: Sequence[TrainingData], recipe: Recipe, selection: RowSelection
) -> dict[str, str]:
    """Everything that decides what comes out, by name."""
    facts: dict[str, object] = {
        f"recipe.{name}": value
        for name, value in recipe.to_json().items()
        if name not in ("memory", "device")
    }
    facts |= {f"split.{name}": value for name, value in asdict(selection).items()}
    for index, data in enumerate(training_data, 1):
        facts |= {
            f"task{index}.fingerprint": data.task.fingerprint,
            f"task{index}.data": data.sha256,
        }
        facts |= {
            f"task{index}.rows": (
                f"{len(data.train)} to learn from, {len(data.validation)} to validate by"
            )
        }
        facts |= (
            {f"task{index}.validation": data.validation_sha256} if data.validation_sha256 else {}
        )
    return {name: str(value) for name, value in facts.items()}


def read_training_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none, or an earlier format's. StorageError for one that cannot be
    read.
    """
    path = folder / TRAINING_FILE
    try:
        facts = json.loads(path.read_bytes())
        return (
            dict(facts)
            if facts["format"] == FORMAT and isinstance(facts["identity"], dict)
            else None
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f"{path} is damaged ({type(error).__name__})",
            fix="move the folder aside and train again",
        ) from None


def check_training_identity(folder: Path, identity: Mapping[str, str]) -> None:
    """RunMismatch where the folder's training was begun with other facts."""
    facts = read_training_manifest(folder)
    if facts is None:
        return
    if differences := list_differences(facts["identity"], identity):
        listed = "".join(f"\n  {difference}" for difference in differences)
        raise RunMismatch(
            f"{folder} belongs to another training:{listed}",
            fix="give another folder with --out, or undo the change",
        )


def write_training_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """Of several processes the first one writes. StorageError."""
    if is_main_process():
        replace_text(folder / TRAINING_FILE, json.dumps(facts, indent=2, default=str) + "\n")


def has_same_split(manifest: Mapping[str, Any], data: TrainingData) -> bool:
    """Whether a training of one task set the same rows aside to validate by as this material
    does.
    """
    theirs, divided = manifest["identity"], data.split
    mine = {"task1.data": data.sha256, "task1.validation": data.validation_sha256}
    if divided is not None and not divided.has_own_table:
        mine |= {"split.share": str(divided.share), "recipe.seed": str(divided.seed)}
    return all(theirs.get(name, "") == value for name, value in mine.items())
