"""What a killed training finds again: complete checkpoints, and the best state."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtask.errors import StorageError
from medtask.training.checkpoints import (
    convert_storage_errors,
    find_best_folder,
    find_checkpoint,
    find_resume_step,
    mark_complete,
    read_best_checkpoint,
    remove_old_checkpoints,
    save_best_checkpoint,
)
from medtask.training.validation_metrics import ValidationResult


class ScalarWeights:
    """Weights that are one number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def save(self, folder: Path) -> None:
        (folder / "value").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = int((folder / "value").read_text())


def make_checkpoint(work: Path, step: int, *, complete: bool = True) -> Path:
    folder = work / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"...")
    if complete:
        mark_complete(folder)
    return folder


def test_a_checkpoint_without_its_mark_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    first = make_checkpoint(tmp_path, 9)
    torn = make_checkpoint(tmp_path, 10, complete=False)
    found = find_checkpoint(tmp_path)
    assert found == first
    assert find_resume_step(tmp_path) == 9
    assert not torn.exists()


def test_old_checkpoints_go_and_the_newest_two_stay(tmp_path: Path) -> None:
    for step in (2, 30, 4):
        make_checkpoint(tmp_path, step)
    remove_old_checkpoints(tmp_path / "checkpoints")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-30",
        "checkpoint-4",
    ]


def test_the_best_state_is_there_whatever_was_half_written(tmp_path: Path) -> None:
    save_best_checkpoint(tmp_path, ScalarWeights(1), 5, ValidationResult(0.7, 0.5))
    save_best_checkpoint(tmp_path, ScalarWeights(2), 9, ValidationResult(0.4))
    # Killed while the third was written: its note, which comes last, is missing.
    (tmp_path / "best-12").mkdir()
    (tmp_path / "best-12" / "value").write_text("3")
    best = read_best_checkpoint(tmp_path)
    assert best is not None
    assert (best.step, best.loss, best.score) == (9, 0.4, None)
    # Killed between the two names: the new one is whole, and the old one is gone or still there.
    (tmp_path / "best").rename(tmp_path / "best-9")
    folder = find_best_folder(tmp_path)
    assert folder is not None
    assert (folder / "value").read_text() == "2"


def test_a_full_disk_is_a_storage_error_whatever_a_library_raises(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    ways = (
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file"),
    )
    for error in ways:
        with pytest.raises(StorageError, match="bytes free"), convert_storage_errors(tmp_path):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), convert_storage_errors(tmp_path):
        raise RuntimeError("shapes do not match")
