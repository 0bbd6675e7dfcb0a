"""Rows that are asked again in other batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from medtask.engines.fake import FakeEngine
from medtask.records import Prompt, Scores
from medtask.runs.local_run import run
from medtask.tasks.task import Task


class UnstableEngine(FakeEngine):
    """Its answers depend on the first row of the batch."""

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.seed = len(batch[0].text) + self.prompt_count
        return super().score_batch(batch)


def check(task: Task, engine: FakeEngine, table: Path, out: Path) -> dict[str, float]:
    run(task, engine, table, out=out, baselines=False, flip_check=30)
    manifest = json.loads((out / "manifest.json").read_text())
    assert "changed the answer" in manifest["notes"][-1]
    entry: dict[str, float] = manifest["flip_check"]
    return entry


def test_a_model_with_equal_answers_has_no_flips_and_a_bound(
    task: Task, write_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    found = check(task, FakeEngine(), write_rows(80), tmp_path / "run")
    assert (found["rows"], found["flips"]) == (30, 0)
    assert 0 < found["high"] < 0.15
    assert found["largest_confidence_difference"] == 0


def test_answers_that_depend_on_the_batch_are_counted(
    task: Task, write_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    found = check(task, UnstableEngine(), write_rows(80), tmp_path / "run")
    assert found["flips"] > 5
    assert found["low"] > 0
    assert found["largest_confidence_difference"] > 0.1
