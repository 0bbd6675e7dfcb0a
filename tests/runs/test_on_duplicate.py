"""Runs over tables with repeated ids: every answer belongs to a row of the table."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import TableError
from medtask.tables.read import read_table
from medtask.tasks.task import Task

TEXTS = ["resection of the colon", "biopsy", "stent", "excision of a node"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    ids = ["c-1", "c-2", "c-1", "c-1"]
    lines = [f"{name},{text}" for name, text in zip(ids, TEXTS, strict=True)]
    path.write_text("\n".join(["case_id,procedure", *lines]))
    return path


def read_answers(folder: Path) -> dict[str, str]:
    frame = pl.read_csv(folder / "answers.csv")
    return dict(zip(frame["case_id"].to_list(), frame["procedure"].to_list(), strict=True))


def test_repeated_ids_get_a_number_and_the_run_is_resumed_with_the_same_ids(
    task: Task, rows: Path, tmp_path: Path
) -> None:
    table, engine = read_table(rows, on_duplicate="suffix"), FakeEngine()
    first = medtask.run(task, engine, table, out=tmp_path / "run", limit=2, baselines=False)
    assert any("c-1-2" in note for note in first.notes)
    second = medtask.run(task, engine, table, out=tmp_path / "run", baselines=False)
    assert (first.new_answers, second.new_answers) == (2, 2)
    found = read_answers(tmp_path / "run")
    assert list(found) == ["c-1", "c-2", "c-1-2", "c-1-3"]
    assert list(found.values()) == TEXTS
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["data"]["options"]["on_duplicate"] == "suffix"


def test_only_the_first_row_of_an_id_is_answered(task: Task, rows: Path, tmp_path: Path) -> None:
    table = read_table(rows, on_duplicate="first")
    result = medtask.run(task, FakeEngine(), table, out=tmp_path / "run", baselines=False)
    assert result.rows == 2
    assert any("2 rows left out" in note for note in result.notes)
    assert read_answers(tmp_path / "run") == {"c-1": TEXTS[0], "c-2": TEXTS[1]}


def test_by_default_such_a_table_is_refused(task: Task, rows: Path) -> None:
    with pytest.raises(TableError, match=r'"c-1" \(rows 1, 3, 4\)') as caught:
        medtask.run(task, FakeEngine(), rows)
    assert "--on-duplicate" in caught.value.fix
