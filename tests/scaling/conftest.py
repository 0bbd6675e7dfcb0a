from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from medtask.engines.load_options import LoadOptions
from medtask.scaling.plan import PlannedOptions, RunPlan
from medtask.scaling.planning import PlanRequest, open_plan
from medtask.tables.read import read_table
from medtask.tasks.load import load_task

TASK = """\
name: purpose
instruction: Decide the main purpose of the operation.
input: "{{ procedure }}"
gold: purpose
answer:
  kind: label
  labels: {curative: removes the tumour, palliative: eases complaints, staging: finds its extent}
"""

MakePlan = Callable[..., RunPlan]


def write_rows(path: Path, rows: int) -> Path:
    """Rows without ids, of which a quarter repeat an earlier text, and some are blank."""
    dice = random.Random(rows)
    texts: list[str] = []
    for row in range(rows):
        chance = dice.random()
        texts.append(
            dice.choice(texts)
            if texts and chance < 0.25
            else ""
            if chance < 0.3
            else f"{dice.choice(('resection', 'stent', 'biopsy'))} of the colon, case {row}"
        )
    labels = [("curative", "palliative", "staging")[row % 3] for row in range(rows)]
    frame = pl.DataFrame({"procedure": texts, "purpose": labels})
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "purpose"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    return folder


@pytest.fixture
def make_plan(task_folder: Path, tmp_path: Path) -> MakePlan:
    """Plan a run of the task over 40 rows in 4 shards."""

    def plan(
        *,
        rows: int = 40,
        shards: int = 4,
        model: str = "fake:",
        out: str = "run",
        suffix: str = ".csv",
        load_options: LoadOptions | None = None,
    ) -> RunPlan:
        request = PlanRequest(
            load_task(task_folder),
            read_table(write_rows(tmp_path / f"rows-{rows}{suffix}", rows)),
            (model, load_options or LoadOptions()),
            PlannedOptions(baselines=False),
            shards,
            out=tmp_path / out,
        )
        return open_plan(request)[0]

    return plan
