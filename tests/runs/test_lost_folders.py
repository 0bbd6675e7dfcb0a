"""Folders that vanish or are closed during a run: the run ends with the disk's error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import StorageError, TableError
from medtask.runs.local_run import run
from medtask.runs.progress import NullRunObserver
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.ordinary_user import act_as_ordinary_user, make_readable_folder

Rows = Callable[[int], Path]


class DamagingProgress(NullRunObserver):
    """Damages a folder when the first rows are answered."""

    def __init__(self, damage: Callable[[], object]) -> None:
        self._damage: Callable[[], object] | None = damage

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        if self._damage:
            self._damage()
            self._damage = None


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user may write."""
    with make_readable_folder() as folder:
        folder.chmod(0o777)
        yield folder


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_run_folder_that_is_removed_ends_the_run_and_nothing_is_written_elsewhere(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows, out = write_rows(300), tmp_path / "runs" / "out"
    before = list_files(tmp_path)
    progress = DamagingProgress(lambda: shutil.rmtree(tmp_path / "runs"))
    with pytest.raises(StorageError) as caught:
        run(task, FakeEngine(batch=8), rows, out=out, baselines=False, progress=progress)
    assert caught.value.exit_code == 7
    assert "out" in str(caught.value) and caught.value.fix
    assert list_files(tmp_path) - before <= {"runs"}


def test_a_run_folder_that_is_closed_ends_the_run_which_goes_on_when_it_is_opened(
    task_folder: Path, write_rows: Rows, open_folder: Path
) -> None:
    rows = shutil.copy(write_rows(300), open_folder / "rows.csv")
    task = load_task(shutil.copy(task_folder / "task.yaml", open_folder))
    out = open_folder / "out"
    with act_as_ordinary_user():
        progress = DamagingProgress(lambda: out.chmod(0o500))
        with pytest.raises(StorageError, match=r"out.*(denied|readonly|read-only)") as caught:
            run(task, FakeEngine(batch=8), rows, out=out, baselines=False, progress=progress)
        assert caught.value.fix
    out.chmod(0o700)
    engine = FakeEngine()
    result = run(task, engine, rows, out=out, baselines=False)
    assert result.rows == 300
    assert engine.prompt_count < 300


def test_a_folder_without_access_is_reported_before_a_model_is_loaded(
    task_folder: Path, write_rows: Rows, open_folder: Path
) -> None:
    rows = shutil.copy(write_rows(5), open_folder / "rows.csv")
    task = load_task(shutil.copy(task_folder / "task.yaml", open_folder))
    (open_folder / "closed").mkdir(mode=0o500)
    for out in (open_folder / "closed", open_folder / "closed" / "out"):
        with act_as_ordinary_user(), pytest.raises(StorageError, match="closed"):
            run(task, lambda: pytest.fail("loaded"), rows, out=out)


def test_a_table_that_may_not_be_read_is_named(write_rows: Rows, open_folder: Path) -> None:
    rows = Path(shutil.copy(write_rows(5), open_folder / "rows.csv"))
    rows.chmod(0)
    with act_as_ordinary_user():
        if os.access(rows, os.R_OK, effective_ids=True):
            pytest.skip("this user may read every file")
        with pytest.raises(TableError, match=r"rows\.csv: no permission") as caught:
            list(read_table(rows))
    assert caught.value.fix
