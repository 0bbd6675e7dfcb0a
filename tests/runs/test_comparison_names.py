from __future__ import annotations

from pathlib import Path

import pytest

import medtask
from medtask.runs.folder import parse_run_time


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("2026-11-29-1405", "2026-11-29 14:05"),
        ("2026-11-29-1405-2", "2026-11-29 14:05-2"),
        ("first", None),
        ("2026-11-29", None),
    ],
)
def test_the_time_of_a_run_folder_is_read_from_its_name(name: str, time: str | None) -> None:
    assert parse_run_time(name) == time


def test_runs_in_folders_without_a_chosen_name_are_called_by_model_and_time(tmp_path: Path) -> None:
    (tmp_path / "side.yaml").write_text(
        "instruction: Which side?\ninput: '{{ text }}'\nid: id\ngold: side\n"
        "answer: {kind: label, labels: [left, right]}\n"
    )
    rows = "".join(
        f"{row},pain on side {row},{'left' if row % 2 else 'right'}\n" for row in range(20)
    )
    (tmp_path / "rows.csv").write_text(f"id,text,side\n{rows}")
    task = medtask.load_task(tmp_path / "side.yaml")
    model = medtask.load_model("fake:")
    for folder in ("2026-11-29-1405", "chosen"):
        medtask.run(task, model, tmp_path / "rows.csv", out=tmp_path / folder, baselines=False)
    compared = medtask.compare(
        [tmp_path / "2026-11-29-1405", tmp_path / "chosen"],
        out=tmp_path / "comparison",
        baselines=False,
    )
    names = [system.name for system in compared.leaderboard.entries]
    assert f"{model.info.title}, 2026-11-29 14:05" in names
    assert "chosen" in names
