"""The content of ``medtask.json``, and the parts of an export's manifest that engines read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from medtask.json_content import JsonContent
from medtask.kinds import KINDS, KindName
from medtask.records import PROMPT_VERSION

EngineName = Literal["linear", "encoder", "onnx", "hf", "mlx", "hybrid"]
PhiStatus = Literal["yes", "no", "unknown"]

_ENGINES_WITH_ONE_OUTPUT_PER_LABEL = ("linear", "encoder", "onnx")


class MetadataFile(JsonContent):
    """The content of ``medtask.json``; a key that is missing is valid, one that is null is not."""

    model_config = ConfigDict(extra="forbid")

    format: int
    engine: EngineName
    kind: KindName
    labels: list[str]
    abstain: str = Field(default=None)  # type: ignore[assignment]
    untaught: list[str] = Field(default_factory=list)
    base: str
    task_fingerprint: str
    phi: PhiStatus
    prompt_version: int = Field(default=1, ge=1, le=PROMPT_VERSION)
    sha256: dict[str, str]

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: KindName, info: ValidationInfo) -> KindName:
        if _has_one_output_per_label(info) and not KINDS[kind].has_labels:
            raise ValueError("this kind has no labels")
        return kind

    @field_validator("labels", "untaught")
    @classmethod
    def _check_texts(cls, labels: list[str]) -> list[str]:
        if not all(label.strip() for label in labels):
            raise ValueError("a label is blank")
        return labels

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: list[str], info: ValidationInfo) -> list[str]:
        if not labels and _has_one_output_per_label(info):
            raise ValueError("there is no label")
        return labels

    @field_validator("sha256")
    @classmethod
    def _check_paths(cls, hashes: dict[str, str]) -> dict[str, str]:
        if not all(map(_is_relative_path, hashes)):
            raise ValueError("a path leads out of the folder")
        return hashes


class _ExportedQuestion(JsonContent):
    prompt_version: int = 1


class ExportedFacts(JsonContent):
    """The tasks that an exported model was trained for, and whether on texts of patients."""

    questions: list[_ExportedQuestion]
    phi: PhiStatus = "unknown"
    files: dict[str, str] = Field(default_factory=dict)


def _has_one_output_per_label(info: ValidationInfo) -> bool:
    found: dict[str, Any] = info.data
    return found.get("engine") in _ENGINES_WITH_ONE_OUTPUT_PER_LABEL


def _is_relative_path(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and "\0" not in name
    )
