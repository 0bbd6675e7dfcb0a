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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from medtask.atomic_files import replace_file
from medtask.display import format_name, format_path, quote_names
from medtask.engines.files.model_files import ModelFiles
from medtask.engines.files.weights import hash_file
from medtask.errors import InputError
from medtask.kinds import KINDS, KindName
from medtask.records import PROMPT_VERSION
from medtask.tasks.row_fingerprints import TRAINING_ROWS_FILE

METADATA_FORMAT = 1
METADATA_FILE = "medtask.json"
TRAINING_FILE = "training.json"  # exists from the first step of a training on
CALIBRATION_FILE = "calibration.json"  # not hashed: it may be added, changed and removed later
EXPORT_FILE = "export.json"  # the manifest of an export, with hashes of its files

EngineName = Literal["linear", "encoder", "onnx", "hf", "mlx", "hybrid"]
PhiStatus = Literal["yes", "no", "unknown"]

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
        questions = _read_export(model)["questions"]
        versions = [int(question.get("prompt_version", 1)) for question in questions]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None  # `medtask export --verify` reports a manifest that is not valid
    return min(versions, default=None)


def _read_export(model: Path) -> Any:
    """The manifest of an exported folder or file; the file may be in an exported folder."""
    file = model / EXPORT_FILE if model.is_dir() else model.with_name(f"{model.name}.{EXPORT_FILE}")
    if file.is_file() or model.is_dir():
        return json.loads(file.read_text(encoding="utf-8"))
    manifest = json.loads((model.parent / EXPORT_FILE).read_text(encoding="utf-8"))
    return manifest if model.name in manifest["files"] else {}


def hash_model_metadata(folder: Path) -> str:
    """One SHA-256 for the whole model: the metadata contains the hashes of all other files."""
    return hash_file(folder / METADATA_FILE)


def _parse_metadata(folder: Path) -> ModelMetadata:
    path = folder / METADATA_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{format_path(folder)} holds no trained model: {METADATA_FILE} is missing",
            fix=_RETRAIN_FIX,
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{format_path(path)} cannot be read ({type(error).__name__})", fix=_RETRAIN_FIX
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{format_path(path)} holds no JSON object", fix=_RETRAIN_FIX)
    _check_metadata(path, content)
    del content["format"]
    lists = {key: tuple(content.get(key, ())) for key in ("labels", "untaught")}
    content.setdefault("prompt_version", 1)  # of the versions that did not record it
    return ModelMetadata(**{**content, **lists, "sha256": MappingProxyType(content["sha256"])})


def _check_metadata(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("format") != METADATA_FORMAT:
        found_format = content.get("format")
        raise InputError(
            f"{format_path(path)} has the format {format_name(repr(found_format))}; this version "
            f"of medtask reads format {METADATA_FORMAT}",
            fix="use the version that wrote it",
        )
    allowed = {"engine": EngineName, "kind": KindName, "phi": PhiStatus}
    invalid_keys = [
        key
        for key in content
        if key not in {"format", *(part.name for part in fields(ModelMetadata))}
    ]
    invalid_keys += [
        key for key, choice in allowed.items() if content.get(key) not in get_args(choice)
    ]
    invalid_keys += [
        key for key in ("base", "task_fingerprint") if not isinstance(content.get(key), str)
    ]
    invalid_keys += ["abstain"] if not isinstance(content.get("abstain", ""), str) else []
    if content.get("prompt_version", 1) not in range(1, PROMPT_VERSION + 1):
        invalid_keys.append("prompt_version")
    sha256, labels = content.get("sha256"), content.get("labels")
    if not isinstance(sha256, dict) or not all(
        isinstance(value, str) and _is_relative_path(name) for name, value in sha256.items()
    ):
        invalid_keys.append("sha256")
    untaught = content.get("untaught", [])
    invalid_keys += [
        key
        for key, names in (("labels", labels), ("untaught", untaught))
        if not _is_label_list(names)
    ]
    if content.get("engine") in ("linear", "encoder", "onnx"):  # these have one output per label
        invalid_keys += ["labels"] if not labels else []
        kind = KINDS.get(str(content.get("kind")))
        invalid_keys += [] if kind is not None and kind.has_labels else ["kind"]
    if not invalid_keys and (
        duplicates := [
            label
            for label, count in Counter([*cast("list[str]", labels), *untaught]).items()
            if count > 1
        ]
    ):
        raise InputError(
            f"{format_path(path)} names the label {quote_names(duplicates[:1])} twice",
            fix="give every label a different name",
        )
    if invalid_keys:
        raise InputError(
            f"{format_path(path)} has invalid values for {quote_names(sorted(set(invalid_keys)))}",
            fix=_RETRAIN_FIX,
        )


def _is_label_list(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)


def _is_relative_path(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and "\0" not in name
    )


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
