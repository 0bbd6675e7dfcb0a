from __future__ import annotations

from pathlib import Path

import pytest

import medtask
from medtask.errors import InputError
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


def test_a_finished_run_without_its_tables_says_how_to_get_them_back(tmp_path: Path) -> None:
    (tmp_path / "side.yaml").write_text(
        "instruction: Which side?\ninput: '{{ text }}'\nanswer: {kind: label, labels: [a, b]}\n"
    )
    (tmp_path / "rows.csv").write_text("text\nleft\nright\n")
    task, model = medtask.load_task(tmp_path / "side.yaml"), medtask.load_model("fake:")
    medtask.run(task, model, tmp_path / "rows.csv", out=tmp_path / "run")
    (tmp_path / "run" / "answers.parquet").unlink()
    with pytest.raises(InputError, match=r"table answers\.parquet was removed") as raised:
        medtask.evaluate(tmp_path / "run")
    assert "run its command again" in raised.value.fix
    again = medtask.run(task, model, tmp_path / "rows.csv", out=tmp_path / "run")
    assert again.new_answers == 0
    assert (tmp_path / "run" / "answers.parquet").exists()
