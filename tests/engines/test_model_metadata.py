"""The contract of a model folder: what it says is so, and nothing half-written or changed is
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtask.engines.model_metadata import (
    EXPORT_FILE,
    ModelMetadata,
    find_trained_engine,
    hash_model_metadata,
    read_model_metadata,
    read_phi,
    read_prompt_version,
    write_model_metadata,
)
from medtask.errors import InputError, StorageError

MODEL = ModelMetadata(
    "linear",
    "label",
    ("knee", "wrist"),
    abstain="unclear",
    base="tf-idf",
    task_fingerprint="f00",
    phi="no",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "linear.json").write_text("{}")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights.safetensors").write_bytes(b"\0\1")
    (tmp_path / "README.md").write_text("a model")
    write_model_metadata(tmp_path, MODEL)
    return tmp_path


def test_what_was_written_is_read_with_a_hash_of_every_file(folder: Path) -> None:
    found = read_model_metadata(folder)
    assert (found.engine, found.kind, found.labels, found.abstain) == (
        "linear",
        "label",
        ("knee", "wrist"),
        "unclear",
    )
    assert (found.base, found.task_fingerprint, found.phi) == ("tf-idf", "f00", "no")
    assert set(found.sha256) == {"linear.json", "part/weights.safetensors"}
    (folder / "README.md").write_text("words for people, which people may change")
    assert read_model_metadata(folder) == found
    assert found == write_model_metadata(folder, MODEL)
    assert find_trained_engine(folder) == "linear"
    assert json.loads((folder / "medtask.json").read_text())["format"] == 1


def test_a_folder_without_a_contract_names_no_engine_and_is_no_trained_model(
    tmp_path: Path,
) -> None:
    assert find_trained_engine(tmp_path) is None
    with pytest.raises(InputError, match=r"holds no trained model: medtask\.json is missing"):
        read_model_metadata(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "linear.json").unlink(),
            r"is incomplete: linear\.json is missing",
        ),
        (
            lambda folder: (folder / "part" / "weights.safetensors").write_bytes(b"\0\2"),
            "is not the file that training wrote",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            r'files that training did not write: "tokenizer\.json"',
        ),
        (lambda folder: (folder / "medtask.json").write_text('{"format": 1'), "cannot be read"),
        (lambda folder: (folder / "medtask.json").write_text("[" * 100_000), "cannot be read"),
        (lambda folder: (folder / "medtask.json").write_text("[1]"), "it is not a JSON object"),
    ],
)
def test_a_folder_that_is_not_as_it_was_written_is_refused(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message):
        read_model_metadata(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has the format 2; this version of medtask reads format 1"),
        ({"labels": ["knee", "knee"]}, 'names the label "knee" twice'),
        ({"labels": []}, 'invalid values for "labels"'),
        ({"labels": ["knee", " "]}, 'invalid values for "labels"'),
        ({"labels": ["knee", 3]}, 'invalid values for "labels"'),
        ({"engine": "pickle"}, 'invalid values for "engine"'),
        ({"kind": "choice", "phi": "maybe"}, 'invalid values for "kind", "phi"'),
        ({"sha256": {"../../etc/passwd": "0"}}, 'invalid values for "sha256"'),
        ({"sha256": {"/etc/passwd": "0"}}, 'invalid values for "sha256"'),
        ({"abstain": 1, "base": None}, 'invalid values for "abstain", "base"'),
        ({"temperature": 2}, 'invalid values for "temperature"'),
    ],
)
def test_a_contract_with_impossible_values_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    path = folder / "medtask.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_model_metadata(folder)
    with pytest.raises(InputError):
        find_trained_engine(folder)


def test_labels_that_cannot_be_distinguished_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        write_model_metadata(tmp_path, ModelMetadata("encoder", "labels", ("a", "a")))
    assert list(tmp_path.iterdir()) == []


def test_a_contract_that_cannot_be_written_reports_it_and_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "medtask.json").mkdir()
    with pytest.raises(StorageError):
        write_model_metadata(tmp_path, MODEL)
    assert find_trained_engine(tmp_path) is None


def test_the_contract_covers_every_byte_of_the_model(folder: Path) -> None:
    before = hash_model_metadata(folder)
    (folder / "linear.json").write_text("{ }")
    write_model_metadata(folder, MODEL)
    assert hash_model_metadata(folder) != before


def test_a_file_in_an_exported_folder_has_the_prompt_version_of_its_manifest(
    tmp_path: Path,
) -> None:
    manifest = {"questions": [{"prompt_version": 1}], "files": {"model.gguf": "0" * 64}}
    (tmp_path / EXPORT_FILE).write_text(json.dumps(manifest))
    assert read_prompt_version(tmp_path / "model.gguf") == 1
    assert read_prompt_version(tmp_path / "other.gguf") is None


@pytest.mark.parametrize(
    ("place", "content", "expected"),
    [
        ("export.json", {"questions": [], "phi": "yes", "files": {"folder/model": ""}}, "yes"),
        ("export.json", {"questions": [], "phi": "yes", "files": {"other": ""}}, "no"),
        ("export.json", {"of": "another program"}, "no"),
        ("folder/model/export.json", {"questions": [], "phi": "no"}, "no"),
        ("folder/model/export.json", {"questions": []}, "unknown"),
        ("folder/model/export.json", {"phi": "perhaps"}, "unknown"),
    ],
)
def test_an_export_says_whether_it_learnt_from_texts_of_patients(
    tmp_path: Path, place: str, content: dict[str, object], expected: str
) -> None:
    model = tmp_path / "folder" / "model"
    model.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(content))
    assert read_phi(model) == expected
