"""Links that another user has planted in a folder: no file that they lead to is changed."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import InputError, RunMismatch, StorageError
from medtask.tasks.load import load_task

SECRET = "years of work"


def write_task(folder: Path) -> Path:
    task = {
        "name": "purpose",
        "instruction": "Decide.",
        "input": "{{ text }}",
        "answer": {"kind": "label", "labels": ["a", "b"]},
    }
    (folder / "task.json").write_text(json.dumps(task))
    (folder / "rows.csv").write_text("text\n" + "".join(f"note {row}\n" for row in range(8)))
    return folder / "task.json"


def list_files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_no_file_of_a_run_is_written_through_a_link(tmp_path: Path) -> None:
    """Each file of a finished run is replaced by a link before the run is resumed."""
    task = load_task(write_task(tmp_path))
    settings = {"formats": ("csv", "jsonl", "parquet", "xlsx")}
    medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=tmp_path / "first", **settings)
    names = list_files(tmp_path / "first")
    names += [f".{name}.draft" for name in names if "/" not in name]
    names += ["ledger.db-journal", "ledger.db-wal", "ledger.damaged.db"]
    assert {"ledger.db", ".lock", "manifest.json"} <= set(names)
    for number, name in enumerate(names):
        victim, out = tmp_path / f"victim-{number}", tmp_path / f"out-{number}"
        victim.write_text(SECRET)
        shutil.copytree(tmp_path / "first", out)
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(victim)
        with suppress(StorageError, RunMismatch, InputError):
            medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out, **settings)
        assert victim.read_text() == SECRET, name


@pytest.mark.parametrize("name", ["ledger.db", ".lock"])
def test_a_link_to_nothing_is_named_and_creates_nothing(tmp_path: Path, name: str) -> None:
    task, out = load_task(write_task(tmp_path)), tmp_path / "out"
    medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out)
    (out / name).unlink()
    (out / name).symlink_to(tmp_path / "new")
    with pytest.raises(StorageError, match=rf"{name}.*it is a link") as raised:
        medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out)
    assert "remove the link" in raised.value.fix
    assert not os.path.lexists(tmp_path / "new")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    task, out = load_task(write_task(tmp_path)), tmp_path / "out"
    medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out)
    for name in ("ledger.db", "manifest.json"):
        (out / name).unlink()
        os.mkfifo(out / name)
        with pytest.raises(StorageError, match=rf"{name}.*not a regular file") as raised:
            medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out)
        assert "move" in raised.value.fix
        if name == "ledger.db":  # its details are left out
            assert any("not a regular file" in note for note in medtask.evaluate(out).notes)
    with pytest.raises(StorageError, match="not a regular file"):
        medtask.evaluate(out)


def test_a_run_folder_without_its_manifest_is_named(tmp_path: Path) -> None:
    task, out = load_task(write_task(tmp_path)), tmp_path / "out"
    medtask.run(task, FakeEngine(), tmp_path / "rows.csv", out=out)
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match="is a run folder without its manifest"):
        medtask.evaluate(out)
