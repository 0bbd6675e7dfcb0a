from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from medtask.tasks.load import load_task
from medtask.tasks.task import Task

TASK = """\
name: purpose
instruction: Decide the main purpose of the operation.
input: "{{ procedure }}"
id: case_id
answer:
  kind: label
  labels: {curative: removes the tumour, palliative: eases complaints, staging: finds out how far it is}
"""  # noqa: E501 - data as it is read


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "purpose"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    return folder


@pytest.fixture
def task(task_folder: Path) -> Task:
    return load_task(task_folder)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[int], Path]:
    """A table of so many rows: a tenth repeat an earlier text, a twentieth are blank."""

    def write(rows: int) -> Path:
        dice = random.Random(rows)
        texts: list[str] = []
        for row in range(rows):
            chance = dice.random()
            fresh = " ".join(
                dice.choices(
                    ("resection", "biopsy", "of", "the", "colon", "left", "laparoscopic"),
                    k=dice.randrange(1, 12),
                )
            )
            texts.append(
                ""
                if chance < 0.05
                else dice.choice(texts)
                if texts and chance < 0.15
                else f"{fresh} {row}"
            )
        path = tmp_path / "rows.csv"
        path.write_text(
            "case_id,procedure\n"
            + "".join(f"c-{row},{text}\n" for row, text in enumerate(texts, 1))
        )
        return path

    return write
