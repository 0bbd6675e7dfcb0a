"""``training.json``: what a training notes of itself, from its first step on; by it a folder's
training is known again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtask.data.atomic import replace_text
from medtask.engines.trained import TRAINING
from medtask.errors import RunMismatch, StorageError
from medtask.runs.manifest import list_differences
from medtask.train.desk import is_first
from medtask.train.material import Material, Selection
from medtask.train.recipe import Recipe

FORMAT = 1


def identify_training(
    materials: Sequence[Material], recipe: Recipe, selection: Selection
) -> dict[str, str]:
    """Everything that decides what comes out, by name."""
    facts: dict[str, object] = {
        f"recipe.{name}": value
        for name, value in recipe.tell().items()
        if name not in ("memory", "device")
    }
    facts |= {f"split.{name}": value for name, value in asdict(selection).items()}
    for place, material in enumerate(materials, 1):
        facts |= {
            f"task{place}.fingerprint": material.task.fingerprint,
            f"task{place}.data": material.sha256,
        }
        facts |= {
            f"task{place}.rows": (
                f"{len(material.train)} to learn from, {len(material.validation)} to validate by"
            )
        }
        facts |= (
            {f"task{place}.validation": material.validation_sha256}
            if material.validation_sha256
            else {}
        )
    return {name: str(value) for name, value in facts.items()}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none, or an earlier format's. StorageError for one that cannot be
    read.
    """
    path = folder / TRAINING
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


def refuse_other(folder: Path, identity: Mapping[str, str]) -> None:
    """RunMismatch where the folder's training was begun with other facts."""
    facts = read_manifest(folder)
    if facts is None:
        return
    if differences := list_differences(facts["identity"], identity):
        listed = "".join(f"\n  {difference}" for difference in differences)
        raise RunMismatch(
            f"{folder} belongs to another training:{listed}",
            fix="give another folder with --out, or undo the change",
        )


def write_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """Of several processes the first one writes. StorageError."""
    if is_first():
        replace_text(folder / TRAINING, json.dumps(facts, indent=2, default=str) + "\n")


def divides_alike(manifest: Mapping[str, Any], material: Material) -> bool:
    """Whether a training of one task set the same rows aside to validate by as this material
    does.
    """
    theirs, divided = manifest["identity"], material.divided
    mine = {"task1.data": material.sha256, "task1.validation": material.validation_sha256}
    if divided is not None and not divided.given:
        mine |= {"split.share": str(divided.share), "recipe.seed": str(divided.seed)}
    return all(theirs.get(name, "") == value for name, value in mine.items())
