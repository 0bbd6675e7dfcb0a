"""Metadata of a trained model: its labels, what it was trained for, and hashes of its files.

    medtask.json                                        {"format": 1, "engine": "linear", ...}
    linear.json, linear.npz                             a linear model, or
    config.json, model.safetensors, tokenizer.json ...  an encoder or a language model, or
    adapter_config.json, adapter_model.safetensors      an adapter of a language model, or
    onnx.json, model.onnx, tokenizer.json ...           an encoder that was exported to ONNX, or
    adapter_config.json, adapters.safetensors           an adapter that mlx-lm reads, or
    hybrid.json                                         a hybrid

``medtask.json`` is written last and contains the hashes of all files that are read with the model:
an incomplete or changed folder is rejected. Files for people (README.md, loss.csv, pictures) may be
edited.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from medtask.atomic_files import replace_file
from medtask.display import format_name, format_path, quote_names
from medtask.engines.files.model_files import ModelFiles
from medtask.engines.files.weights import hash_file
from medtask.engines.metadata_schema import EngineName, ExportedFacts, MetadataFile, PhiStatus
from medtask.errors import InputError
from medtask.json_content import check_content, load_checked
from medtask.json_files import InvalidJsonFile, load_json_object
from medtask.kinds import KindName
from medtask.records import PROMPT_VERSION
from medtask.tasks.row_fingerprints import TRAINING_ROWS_FILE

METADATA_FORMAT = 1
METADATA_FILE = "medtask.json"
TRAINING_FILE = "training.json"  # exists from the first step of a training on
CALIBRATION_FILE = "calibration.json"  # not hashed: it may be added, changed and removed later
EXPORT_FILE = "export.json"  # the manifest of an export, with hashes of its files

_MAX_DEPTH = 2  # folders between an export and the model in it, such as artifacts/model
_BY_SEVERITY: tuple[PhiStatus, ...] = ("yes", "unknown", "no")
_RETRAIN_FIX = "train the model again, or copy its whole folder again"
# Loaders read files with _MODEL_SUFFIXES automatically: none may be added to the folder.
_EDITABLE_SUFFIXES = frozenset({".md", ".csv", ".svg"})
_MODEL_SUFFIXES = frozenset({".json", ".jinja", ".model", ".npz", ".safetensors", ".txt"})


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """Metadata of a trained model.

    Attributes:
        engine: The engine that loads it.
        kind: The kind of the task.
        labels: In the order of the model's outputs; empty for a language model.
        abstain: The task's answer for "cannot tell", if the model was not trained to give it.
        untaught: Labels of the task without training examples; the model gives them no probability.
        base: The model that the training started from.
        task_fingerprint: Fingerprint of the task that it was trained for.
        phi: Whether it was trained on texts of patients.
        prompt_version: The version of the prompts that it was trained on.
        sha256: Hash by file, with ``/`` between folders; set by write_model_metadata.
    """

    engine: EngineName
    kind: KindName
    labels: tuple[str, ...]
    abstain: str | None = None
    untaught: tuple[str, ...] = ()
    base: str = ""
    task_fingerprint: str = ""
    phi: PhiStatus = "unknown"
    prompt_version: int = PROMPT_VERSION
    sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def list_details(self) -> dict[str, object]:
        """The facts that the manifest of a run keeps."""
        return {
            "labels": list(self.labels),
            "trained_for": self.task_fingerprint,
            "base": self.base,
            "phi": self.phi,
        }


def find_trained_engine(folder: Path) -> EngineName | None:
    """The engine of a trained folder; None for a folder without metadata.

    Raises:
        InputError: The metadata cannot be read, or the training is unfinished.
    """
    if (folder / METADATA_FILE).is_file():
        return _parse_metadata(folder).engine
    if (folder / TRAINING_FILE).is_file():
        fix = "run the same `medtask train` command again: it continues where it stopped"
        raise InputError(
            f"{format_path(folder)} holds no finished model: its training was interrupted", fix=fix
        )
    return None


def read_model_metadata(folder: Path) -> ModelMetadata:
    """Read the metadata of a folder and check that its files are complete and unchanged.

    Raises:
        InputError: The metadata is missing or invalid, or a file is missing, changed or added.
    """
    metadata = _parse_metadata(folder)
    for name, expected in metadata.sha256.items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{format_path(folder)} is incomplete: {format_name(name)} is missing",
                fix=_RETRAIN_FIX,
            )
        if hash_file(path) != expected:
            raise InputError(
                f"{format_path(path)} is not the file that training wrote", fix=_RETRAIN_FIX
            )
    if unknown := sorted(
        name
        for name in _list_hashed_files(folder)
        if _is_model_file(name) and name not in metadata.sha256
    ):
        raise InputError(
            f"{format_path(folder)} holds files that training did not write: "
            f"{quote_names(unknown)}",
            fix=f"remove them, or {_RETRAIN_FIX}",
        )
    return metadata


def check_trained_files(files: ModelFiles) -> None:
    """Raise InputError if a model trained by medtask is incomplete or still in training."""
    folder = files.adapter or files.path
    if folder.is_dir() and find_trained_engine(folder):
        read_model_metadata(folder)


def write_model_metadata(folder: Path, metadata: ModelMetadata) -> ModelMetadata:
    """Hash all files of a folder and write its metadata; returns it with the hashes.

    Raises:
        InputError: A label is not valid.
        StorageError: The folder cannot be written.
    """
    hashed = replace(
        metadata, sha256={name: hash_file(folder / name) for name in _list_hashed_files(folder)}
    )
    content = {
        "format": METADATA_FORMAT,
        **{key: value for key, value in asdict(hashed).items() if value is not None},
    }
    _check_metadata(folder / METADATA_FILE, json.loads(json.dumps(content)))
    with replace_file(folder / METADATA_FILE) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return hashed


def read_prompt_version(model: Path) -> int | None:
    """The version of the prompts that a trained folder, or an export of one, was trained on.

    None for other models.
    """
    if (model / METADATA_FILE).is_file():
        return _parse_metadata(model).prompt_version
    try:
        questions = _read_export(model).questions
    except (FileNotFoundError, InvalidJsonFile):
        return None  # `medtask export --verify` reports a manifest that is not valid
    return min((question.prompt_version for question in questions), default=None)


def read_phi(model: Path) -> PhiStatus:
    """Whether a trained folder, or the model of an export, learnt from texts of patients.

    "no" for other models; "unknown" if the manifest of the export is not valid.
    """
    if (model / METADATA_FILE).is_file():
        return _parse_metadata(model).phi
    try:
        return _read_export(model).phi
    except FileNotFoundError:
        return "no"
    except InvalidJsonFile:
        return "unknown"


def combine_phi(statuses: Iterable[PhiStatus]) -> PhiStatus:
    """The most severe of what is known of several models or tables; "no" without any."""
    found = set(statuses)
    return next((status for status in _BY_SEVERITY if status in found), "no")


def _read_export(model: Path) -> ExportedFacts:
    """The manifest of an exported folder or file, which may be a part of an exported folder."""
    file = locate_beside(model, EXPORT_FILE)
    if file.is_file():
        return load_checked(file, ExportedFacts)
    for folder in model.absolute().parents[:_MAX_DEPTH]:
        with suppress(FileNotFoundError, InvalidJsonFile):  # it can be a file of another program
            found = load_checked(folder / EXPORT_FILE, ExportedFacts)
            part = PurePosixPath(model.absolute().relative_to(folder))
            if any(part in (name, *name.parents) for name in map(PurePosixPath, found.files)):
                return found
    raise FileNotFoundError(file)


def locate_beside(model: Path, name: str) -> Path:
    """Where a file about a model is: in its folder, or beside its file."""
    return model / name if model.is_dir() else model.with_name(f"{model.name}.{name}")


def hash_model_metadata(folder: Path) -> str:
    """One SHA-256 for the whole model: the metadata contains the hashes of all other files."""
    return hash_file(folder / METADATA_FILE)


def _parse_metadata(folder: Path) -> ModelMetadata:
    path = folder / METADATA_FILE
    try:
        content = load_json_object(path)
    except FileNotFoundError:
        raise InputError(
            f"{format_path(folder)} holds no trained model: {METADATA_FILE} is missing",
            fix=_RETRAIN_FIX,
        ) from None
    except InvalidJsonFile as error:
        raise InputError(f"{format_path(path)} cannot be read: {error}", fix=_RETRAIN_FIX) from None
    found = _check_metadata(path, content).model_dump(exclude_unset=True, exclude={"format"})
    found.setdefault("prompt_version", 1)  # of the versions that did not record it
    lists = {key: tuple(found.get(key, ())) for key in ("labels", "untaught")}
    return ModelMetadata(**{**found, **lists, "sha256": MappingProxyType(found["sha256"])})


def _check_metadata(path: Path, content: Mapping[str, Any]) -> MetadataFile:
    """The checked content of a file. Raises InputError."""
    if content.get("format") != METADATA_FORMAT:
        found_format = content.get("format")
        raise InputError(
            f"{format_path(path)} has the format {format_name(repr(found_format))}; this version "
            f"of medtask reads format {METADATA_FORMAT}",
            fix="use the version that wrote it",
        )
    try:
        found = check_content(content, MetadataFile)
    except InvalidJsonFile as error:
        raise InputError(
            f"{format_path(path)} has invalid values for {quote_names(error.keys)}",
            fix=_RETRAIN_FIX,
        ) from None
    counts = Counter([*found.labels, *found.untaught])
    if duplicates := [label for label, count in counts.items() if count > 1]:
        raise InputError(
            f"{format_path(path)} names the label {quote_names(duplicates[:1])} twice",
            fix="give every label a different name",
        )
    return found


def _list_hashed_files(folder: Path) -> list[str]:
    """Relative paths of all files except the metadata, hidden files and editable files."""
    found = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in _EDITABLE_SUFFIXES
    ]
    names = [
        path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)
    ]
    # Models without training rows are valid; medtask.json is written before them.
    unhashed = {METADATA_FILE, CALIBRATION_FILE, TRAINING_ROWS_FILE, TRAINING_FILE, EXPORT_FILE}
    return sorted(name for name in names if name not in unhashed)


def _is_model_file(name: str) -> bool:
    return "/" not in name and PurePosixPath(name).suffix in _MODEL_SUFFIXES
