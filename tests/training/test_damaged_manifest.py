"""A ``training.json`` that was damaged or edited is read, or refused with a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medtask.errors import MedtaskError, StorageError
from medtask.training.trained_model import read_trained_model
from medtask.training.training_manifest import read_training_manifest
from support.damaged_json import damage, list_damages

TRAINED = Path(__file__).parents[1] / "compatibility/files/models/linear"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(TRAINED / "training.json", tmp_path)
    return tmp_path


def test_no_damage_ends_in_another_error_than_medtasks(folder: Path) -> None:
    path = folder / "training.json"
    written = json.loads(path.read_text())
    read = refused = 0
    for place, value in list_damages(written):
        path.write_text(json.dumps(damage(written, place, value)))
        try:
            if read_training_manifest(folder) is not None:
                read_trained_model(folder).to_json()
            read += 1
        except MedtaskError as error:
            assert error.fix
            refused += 1
    assert read > 100
    assert refused > 100


def test_a_training_that_has_ended_without_its_result_is_damaged(folder: Path) -> None:
    path = folder / "training.json"
    written = json.loads(path.read_text())
    del written["measured"]
    path.write_text(json.dumps(written))
    with pytest.raises(StorageError, match="measured missing"):
        read_training_manifest(folder)
    written["state"] = "training"
    path.write_text(json.dumps(written))
    assert read_training_manifest(folder) == written


def test_json_that_is_nested_without_end_is_damaged(folder: Path) -> None:
    (folder / "training.json").write_text("[" * 100_000)
    with pytest.raises(StorageError, match="nested too deeply"):
        read_training_manifest(folder)
