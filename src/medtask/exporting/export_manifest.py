"""The manifest of an export: what was exported, how it compares with its source, and its hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.engines.files.weights import hash_file
from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.model_metadata import EXPORT_FILE, locate_beside
from medtask.errors import InputError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.runs.calibration_store import locate_model_calibration

MANIFEST_FILE = EXPORT_FILE
CARD_FILE = "README.md"
FORMAT = 1
_FIX = "export the model again, or copy the whole export again"


class ExportManifest(JsonContent):
    """The content of ``export.json``.

    Attributes:
        target: The target, such as "gguf".
        quantization: Its quantisation; "" without one.
        source: Reference, base, licence and hashes of the model that was exported.
        phi: Whether the model learnt from texts of patients.
        tasks: The results of its training, without texts of rows.
        questions: The tasks that it was trained for, without examples.
        calibrations: The number of calibrations of its source that it keeps.
        demonstration: Whether the model is not for real work.
        data: The fingerprints of the tables that it was trained on.
        parity: The comparison with the source; None if it was not made.
        forced: Whether it was published although the comparison failed.
        files: SHA-256 of each file, by its path in the folder.
    """

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    target: str
    quantization: str = ""
    source: dict[str, str]
    phi: PhiStatus = "unknown"
    tasks: list[dict[str, Any]] = Field(default_factory=list)
    questions: list[dict[str, Any]] = Field(default_factory=list)
    calibrations: int = 0
    demonstration: bool = False
    data: dict[str, str] = Field(default_factory=dict)
    parity: dict[str, Any] | None = None
    forced: bool = False
    command: str = ""
    created: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


def locate_manifest(path: Path) -> Path:
    """Where the manifest of an exported folder or file is."""
    return locate_beside(path, MANIFEST_FILE)


def locate_card(path: Path) -> Path:
    """Where the card of an exported folder or file is."""
    return locate_beside(path, CARD_FILE)


def hash_files(path: Path) -> dict[str, str]:
    """SHA-256 of an exported file and its calibrations, or of all files in a folder.

    Without the manifest and the card.
    """
    if path.is_file():
        files = (path, locate_model_calibration(path))
        return {file.name: hash_file(file) for file in files if file.is_file()}
    names = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*"))}
    # A link to a folder, which is not followed, has no hash.
    return {
        name: hash_file(file) if file.is_file() else ""
        for name, file in names.items()
        if name not in (MANIFEST_FILE, CARD_FILE) and (file.is_symlink() or not file.is_dir())
    }


def write_manifest(manifest: ExportManifest, path: Path) -> None:
    """Raises StorageError."""
    replace_text(path, json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n")


def read_manifest(path: Path) -> ExportManifest:
    """The manifest of an exported folder or file. Raises InputError."""
    file = locate_manifest(path)
    try:
        manifest = load_checked(file, ExportManifest)
    except FileNotFoundError:
        raise InputError(
            f"{format_path(path)} is no export: {file.name} is missing", fix=_FIX
        ) from None
    except InvalidJsonFile as error:
        raise InputError(f"{format_path(file)} cannot be read: {error}", fix=_FIX) from None
    if manifest.format != FORMAT:
        raise InputError(
            f"{format_path(file)} has the format {manifest.format}; this version of medtask reads "
            f"format {FORMAT}",
            fix="use the version that wrote it",
        )
    return manifest


def verify_files(path: Path, manifest: ExportManifest) -> list[str]:
    """Each difference between an export and the hashes of its manifest, as a sentence."""
    found, expected = hash_files(path), manifest.files
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [
        f"{name} is changed"
        for name in expected
        if found.get(name, expected[name]) != expected[name]
    ]
    if path.is_file() and manifest.calibrations:  # earlier versions did not hash them
        expected = {locate_model_calibration(path).name: "", **expected}
    return problems + [f"{name} was added" for name in found if name not in expected]
