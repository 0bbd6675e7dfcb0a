"""The parts of a run's manifest that are read back, with their types."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from medtask.json_content import JsonContent
from medtask.prediction.cascade_report import decision_from_json

_Span = Annotated[list[int], Field(min_length=2, max_length=2)]


class _ManifestTiming(JsonContent):
    __pydantic_extra__: dict[str, int | float | None]
    sessions: int = 1
    seconds: float = 0.0
    asked: int = 0
    asking_seconds: float = 0.0
    rows_per_s: float | None = None


class _ManifestEgress(JsonContent):
    connections_attempted: int = 0
    sent_to: dict[str, list[str]] = Field(default_factory=dict)


class _ManifestModel(JsonContent):
    name: str = ""
    title: str = ""
    identity: dict[str, str] = Field(default_factory=dict)
    family: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class _ManifestColumns(JsonContent):
    group: str | None = None


class _ManifestQuestion(JsonContent):
    columns: _ManifestColumns = Field(default_factory=_ManifestColumns)


class _ManifestTask(JsonContent):
    name: str
    source: str | None = None
    fingerprint: str
    question: _ManifestQuestion


class _ManifestDataOptions(JsonContent):
    missing: list[str] | None = None


class _ManifestData(JsonContent):
    source: str = ""
    sha256: str
    first_sha256: str = ""
    rows: int = 0
    columns: list[str]
    notes: list[str] = Field(default_factory=list)
    options: _ManifestDataOptions = Field(default_factory=_ManifestDataOptions)


class _ManifestSettings(JsonContent):
    gold_column: str | None = None


class _ManifestCache(JsonContent):
    file: str
    rows: int = 0


class _ManifestCascade(JsonContent):
    alpha: float
    decision: dict[str, Any]

    @field_validator("decision")
    @classmethod
    def _check_decision(cls, decision: dict[str, Any]) -> dict[str, Any]:
        decision_from_json(decision)
        return decision


class _ManifestBatch(JsonContent):
    unit: str
    size: int
    measured: bool


class RunManifest(JsonContent):
    """A manifest of a run, a judging, a training's validation or a cross-validation.

    Only the identity is needed: a run whose other facts are lost can still be resumed. Facts that
    are missing are valid, those that are null are not.
    """

    format: int = 1
    state: str = "running"
    created: str = ""
    finished: str | None = None
    identity: dict[str, str]
    timing: _ManifestTiming = Field(default_factory=_ManifestTiming.model_construct)
    egress: _ManifestEgress = Field(default_factory=_ManifestEgress.model_construct)
    model: _ManifestModel = Field(default_factory=_ManifestModel.model_construct)
    models_of_passes: dict[str, _ManifestModel] = Field(default_factory=dict)
    task: _ManifestTask = Field(default_factory=_ManifestTask.model_construct)
    data: _ManifestData = Field(default_factory=_ManifestData.model_construct)
    settings: _ManifestSettings = Field(default_factory=_ManifestSettings.model_construct)
    left_out: dict[str, list[_Span]] = Field(default_factory=dict)
    thresholds: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    recoveries: list[dict[str, Any]] = Field(default_factory=list)
    table_changes: list[dict[str, Any]] = Field(default_factory=list)
    moving_answers: bool = False
    cascade: _ManifestCascade = Field(default_factory=_ManifestCascade.model_construct)
    cache: _ManifestCache = Field(default_factory=_ManifestCache.model_construct)
    batch: _ManifestBatch = Field(default_factory=_ManifestBatch.model_construct)

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        for spans in self.left_out.values():
            if any(not 1 <= first <= last <= self.data.rows for first, last in spans):
                raise ValueError("left_out names rows that the table does not have")
        return self


# Facts that a manifest may lack, because it was edited or written by an earlier version.
DEFAULTS: dict[str, Any] = {
    "state": "running",
    "created": "",
    "finished": None,
    "timing": {"sessions": 1, "seconds": 0.0},
    "egress": {"connections_attempted": 0},
    "model": {},
}
