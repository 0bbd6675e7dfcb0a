from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medtask.engines.files.unpacked_models import (
    discard_on_failure,
    make_unpacking_folder,
    publish_unpacked,
)
from medtask.errors import EngineError, StorageError


def unpack(models: Path, name: str) -> Path:
    folder = make_unpacking_folder(models)
    (folder / "weights").write_bytes(b"1")
    publish_unpacked(folder, models / name)
    return models / name


def test_a_model_that_cannot_be_loaded_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    kept = unpack(tmp_path, "loaded-before")
    with pytest.raises(EngineError), discard_on_failure():
        unpack(tmp_path, "broken")
        raise EngineError("its tensors do not fit", fix="fetch it again")
    assert list(tmp_path.iterdir()) == [kept]


def test_a_model_that_was_loaded_stays_in_the_cache(tmp_path: Path) -> None:
    with discard_on_failure():
        loaded = unpack(tmp_path, "loaded")
    with pytest.raises(KeyboardInterrupt), discard_on_failure():  # the model is intact
        interrupted = unpack(tmp_path, "interrupted")
        raise KeyboardInterrupt
    assert loaded.is_dir()
    assert interrupted.is_dir()


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    killed, running = make_unpacking_folder(tmp_path), make_unpacking_folder(tmp_path)
    (killed / "weights").touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(killed, (two_days_ago, two_days_ago))
    make_unpacking_folder(tmp_path)
    assert not killed.exists()
    assert running.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written") as caught:
        make_unpacking_folder(tmp_path / "file" / "models")
    assert "XDG_CACHE_HOME" in caught.value.fix
