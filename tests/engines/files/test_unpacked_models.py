from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medtask.engines.files.unpacked_models import cache_unpacked, discard_on_failure
from medtask.errors import EngineError, StorageError
from support.file_size_limit import limit_file_size


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "medtask" / "models"


def write_weights(path: Path) -> None:
    path.mkdir()
    (path / "weights").write_bytes(b"1")


def unpack(name: str) -> Path:
    return cache_unpacked(name, write_weights)


def test_a_model_is_unpacked_once(models: Path) -> None:
    first = unpack("model")
    assert cache_unpacked("model", lambda path: pytest.fail("it is there")) == first
    assert list(models.iterdir()) == [first]


def test_a_model_that_cannot_be_loaded_leaves_nothing_in_the_cache(models: Path) -> None:
    kept = unpack("loaded-before")
    with pytest.raises(EngineError), discard_on_failure():
        unpack("loaded-before")
        unpack("broken")
        raise EngineError("its tensors do not fit", fix="fetch it again")
    assert list(models.iterdir()) == [kept]


def test_a_model_that_was_loaded_stays_in_the_cache() -> None:
    with discard_on_failure():
        loaded = unpack("loaded")
    with pytest.raises(KeyboardInterrupt), discard_on_failure():  # the model is intact
        interrupted = unpack("interrupted")
        raise KeyboardInterrupt
    assert loaded.is_dir()
    assert interrupted.is_dir()


def test_what_a_killed_process_left_is_removed_after_a_day(models: Path) -> None:
    killed, running = models / "unpacking-killed", models / "unpacking-running"
    for folder in (killed, running):
        folder.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(killed, (two_days_ago, two_days_ago))
    unpack("model")
    assert not killed.exists()
    assert running.exists()


def test_a_cache_that_cannot_be_written_is_named(models: Path) -> None:
    models.parent.touch()
    with pytest.raises(StorageError, match="cannot be written") as caught:
        unpack("model")
    assert "XDG_CACHE_HOME" in caught.value.fix


def test_a_full_disk_is_reported_and_leaves_nothing(models: Path) -> None:
    with (
        limit_file_size(10),
        pytest.raises(StorageError, match="cannot be written") as caught,
    ):
        cache_unpacked("model", lambda path: path.write_bytes(bytes(100)) and None)
    assert "XDG_CACHE_HOME" in caught.value.fix
    assert list(models.iterdir()) == []


def test_what_another_process_has_unpacked_meanwhile_is_used(models: Path) -> None:
    def unpack_second(path: Path) -> None:
        write_weights(models / "model")
        write_weights(path)

    cached = cache_unpacked("model", unpack_second)
    assert list(models.iterdir()) == [cached]


def test_errors_of_libraries_are_not_errors_of_the_cache(models: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError("config.json is not valid")

    with pytest.raises(OSError, match="not valid"):
        cache_unpacked("model", fail)
    assert list(models.iterdir()) == []
