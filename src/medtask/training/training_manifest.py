"""``training.json``: the identity, settings and result of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.engines.model_metadata import TRAINING_FILE
from medtask.errors import RunMismatch, StorageError
from medtask.json_content import JsonContent, check_content
from medtask.json_files import InvalidJsonFile, load_json_object
from medtask.runs.manifest import format_differences
from medtask.training.recipe import Recipe
from medtask.training.training_context import is_main_process
from medtask.training.training_data import DEFAULT_SELECTION, RowSelection, TrainingData

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training: its folder, data and settings."""

    folder: Path
    training_data: Sequence[TrainingData]
    recipe: Recipe
    selection: RowSelection = DEFAULT_SELECTION
    demonstration: bool = False

    @property
    def identity(self) -> dict[str, str]:
        """Everything that determines the result, by name."""
        facts: dict[str, object] = {
            f"recipe.{name}": value
            for name, value in self.recipe.to_json().items()
            if name not in ("memory", "device", "budget")
        }
        facts |= {f"split.{name}": value for name, value in self.selection.to_json().items()}
        for index, data in enumerate(self.training_data, 1):
            facts |= {
                f"task{index}.fingerprint": data.task.fingerprint,
                f"task{index}.data": data.sha256,
                f"task{index}.rows": (
                    f"{len(data.train)} to learn from, {len(data.validation)} to validate by"
                ),
            }
            if data.split is not None and data.split.chosen_rows:
                facts[f"task{index}.chosen"] = data.split.chosen_rows
            if data.validation_sha256:
                facts[f"task{index}.validation"] = data.validation_sha256
        return {name: str(value) for name, value in facts.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the method for the user."""
        spec, rows = self.recipe.spec, sum(len(data.train) for data in self.training_data)
        if rows >= spec.min_rows:
            return ()
        advice = " (below that, --method linear is usually better)" if spec.min_rows > 100 else ""
        return (
            f"{rows:,} training rows are few for --method {spec.name}, which needs "
            f"{spec.min_rows:,} or more{advice}",
        )


class _Figure(JsonContent):
    value: float
    n: int
    low: float | None = None
    high: float | None = None


class _MeasuredTask(JsonContent):
    task: str
    measure: str
    figures: dict[str, _Figure | None]
    rivals: dict[str, dict[str, _Figure]]
    calibration: str
    thresholds: dict[str, float] = Field(default_factory=dict)
    rows: dict[str, Any] = Field(default_factory=dict)


class _UsedRecipe(JsonContent):
    method: str
    bases: list[str]


class _OutOfFoldFigures(JsonContent):
    run: str
    folds: int
    measure: str
    metrics: dict[str, _Figure | None]


class _TrainingFile(JsonContent):
    """The parts of the manifest that are read back; a training that has ended has its results."""

    format: int
    identity: dict[str, str]
    state: str = "training"
    seconds: float = 0.0
    recipe: _UsedRecipe = Field(default_factory=_UsedRecipe.model_construct)
    tasks: list[dict[str, Any]] = Field(default_factory=list)
    facts: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    measured: list[_MeasuredTask] = Field(default_factory=list)
    validation_loss: float | None = None
    untrained: float | None = None
    out_of_fold: _OutOfFoldFigures = Field(default_factory=_OutOfFoldFigures.model_construct)

    @model_validator(mode="after")
    def _check_results(self) -> Self:
        needed = {"measured", "recipe", "validation_loss", "untrained", "seconds", "notes"}
        if self.state != "training" and (missing := needed - self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(missing))} missing")
        return self


def read_training_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest; returns None if it is missing or has another format.

    Raises:
        StorageError: The manifest is damaged.
    """
    path = folder / TRAINING_FILE
    try:
        facts = load_json_object(path)
        if facts.get("format") != FORMAT:
            return None
        check_content(facts, _TrainingFile)
    except FileNotFoundError:
        return None
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} is damaged: {error}",
            fix="move the folder aside and train again",
        ) from None
    return {"state": "training"} | facts


def check_training_identity(training: TrainingRun) -> None:
    """Raise RunMismatch if the folder belongs to a training with another identity."""
    facts = read_training_manifest(training.folder)
    if facts is None:
        return
    if listed := format_differences(facts["identity"], training.identity):
        raise RunMismatch(
            f"{training.folder} belongs to another training:{listed}",
            fix="give another folder with --out, or undo the change",
        )


def write_training_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """Write the manifest, in the main process. Raises StorageError."""
    if is_main_process():
        replace_text(folder / TRAINING_FILE, json.dumps(facts, indent=2, default=str) + "\n")


def has_same_split(manifest: Mapping[str, Any], data: TrainingData) -> bool:
    """Whether a training of one task set aside the same validation rows as this data."""
    identity, split = manifest["identity"], data.split
    expected = {"task1.data": data.sha256, "task1.validation": data.validation_sha256}
    if split is not None and not split.has_own_table:
        expected |= {"split.share": str(split.share), "recipe.seed": str(split.seed)}
        expected["task1.chosen"] = str(split.chosen_rows or "")
    return all(identity.get(name, "") == value for name, value in expected.items())
