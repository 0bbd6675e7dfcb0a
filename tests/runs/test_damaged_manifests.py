"""A manifest that was damaged or edited: the run is resumed, or refused with a remedy."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import MedtaskError, StorageError
from medtask.runs.folder import find_runs
from medtask.runs.manifest import read_manifest
from medtask.tasks.task import Task
from support.damaged_json import REMOVED, damage, list_damages

DAMAGES = 60  # of about 2,000


@pytest.fixture
def finished_run(task: Task, write_rows: Callable[[int], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "finished"
    medtask.run(task, FakeEngine(), write_rows(8), out=folder, baselines=False)
    return folder


def edit(folder: Path, place: tuple[Any, ...], value: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()), place, value)))


def test_no_damage_of_a_manifest_ends_in_another_error_than_medtasks(
    task: Task, finished_run: Path, tmp_path: Path
) -> None:
    path, rows = finished_run / "manifest.json", tmp_path / "rows.csv"
    written = json.loads(path.read_text())
    refused = 0
    for place, value in random.Random(20).sample(list_damages(written), DAMAGES):
        for use in (
            lambda: medtask.run(task, FakeEngine(), rows, out=finished_run, baselines=False),
            lambda: medtask.evaluate(finished_run),
        ):
            path.write_text(json.dumps(damage(written, place, value)))
            try:
                use()
            except MedtaskError as error:
                assert error.fix
                refused += 1
    assert 0 < refused < 2 * DAMAGES


@pytest.mark.parametrize("name", ["created", "timing", "egress", "model", "state", "finished"])
def test_a_run_without_a_fact_that_its_answers_do_not_need_is_resumed(
    task: Task, finished_run: Path, tmp_path: Path, name: str
) -> None:
    edit(finished_run, (name,), REMOVED)
    engine = FakeEngine()
    medtask.run(task, engine, tmp_path / "rows.csv", out=finished_run, baselines=False)
    assert engine.prompt_count == 0
    assert read_manifest(finished_run)[name]  # type: ignore[index]


def test_a_damaged_manifest_does_not_prevent_other_runs_of_the_task(
    task: Task, finished_run: Path
) -> None:
    runs = finished_run.parent
    for number, text in enumerate(("[" * 100_000, "{", '{"identity": 7}', '{"identity": {}}')):
        (runs / f"other{number}").mkdir()
        (runs / f"other{number}" / "manifest.json").write_text(text)
    manifest = read_manifest(finished_run)
    assert manifest is not None
    identity = manifest["identity"]
    assert find_runs(runs, lambda facts: (facts, identity)) == [finished_run]


def test_the_error_names_the_part_that_is_not_valid(finished_run: Path) -> None:
    edit(finished_run, ("timing", "sessions"), "SECRET")
    with pytest.raises(StorageError, match=r"timing\.sessions: Input should be a valid integer"):
        read_manifest(finished_run)


def test_a_manifest_of_a_later_format_is_refused(finished_run: Path) -> None:
    edit(finished_run, ("format",), 2)
    with pytest.raises(StorageError, match="format 2; this version of medtask reads format 1"):
        read_manifest(finished_run)
