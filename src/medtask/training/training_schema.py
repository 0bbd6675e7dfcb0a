"""The parts of ``training.json`` that are read back, with their types."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from medtask.json_content import JsonContent


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


class TrainingFile(JsonContent):
    """The manifest of a training; a training that has ended has its results."""

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
