"""The command that reads corrections back, and the commands that it leads to."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.runs.local_run import run
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from support.command_line import RunCommand

TASK = """\
instruction: Decide the purpose.
input: "{{ note }}"
id: id
answer: {kind: label, labels: [curative, palliative]}
"""


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose gold column is named by its command and not by its task; two corrections."""
    monkeypatch.chdir(tmp_path)
    Path("task.yaml").write_text(TASK, "utf-8")
    lines = [
        f"{row},note {row},{('curative', 'palliative')[row % 2] if row < 40 else ''}"
        for row in range(60)
    ]
    Path("table.csv").write_text("\n".join(["id,note,purpose", *lines]) + "\n", "utf-8")
    task = load_task("task.yaml")
    run(task, FakeEngine(), "table.csv", out="out", gold="purpose", baselines=False)
    rows = [dict(row) for row in read_table(Path("out/answers.csv"))]
    for row in rows:
        row["corrected"] = {"3": "palliative", "50": "curative"}.get(str(row["id"]), "")
    with Path("out/review.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return Path("out")


def test_every_correction_is_counted(medtask: RunCommand, run_folder: Path) -> None:
    output = medtask("gold", run_folder)
    assert output.code == 0
    assert "41 rows with gold: 1 added, 0 changed" in output.out
    assert "2 corrections read" in output.out and "1 agree with gold that there was" in output.out


def test_the_next_commands_name_the_column_of_gold(medtask: RunCommand, run_folder: Path) -> None:
    lines = medtask("gold", run_folder).out.splitlines()
    commands = [shlex.split(line.partition(":")[2]) for line in lines if ": " in line]
    commands = [words for words in commands if words[:1] == ["medtask"]]
    train = next(words for words in commands if words[1] == "train")
    assert train[4:6] == ["--gold", "purpose"]
    assert medtask(*train[1:], "--method", "linear", "--dry-run").code == 0
    measure = next(words for words in commands if words[1] == "evaluate")
    output = medtask(*measure[1:], "--no-baselines")
    assert output.code == 0 and "n = 40 with gold" in output.out


def test_a_column_of_another_kind_is_no_gold(medtask: RunCommand, run_folder: Path) -> None:
    output = medtask("evaluate", run_folder, "--gold", "table.csv#note")
    assert output.code == 4
    assert 'no value of gold in table.csv, column "note" is a label of the task' in output.err
    assert "note 3" not in output.err  # no text of a record


def test_the_next_commands_fit_a_table_without_texts(medtask: RunCommand, run_folder: Path) -> None:
    Path("answers.csv").write_text("id,answer,gold\n1,curative,curative\n2,palliative,curative\n")
    Path("written.csv").write_text("id,answer,corrected\n2,palliative,ok\n")
    lines = medtask("gold", "answers.csv", "written.csv", "--task", "task.yaml").out.splitlines()
    commands = [shlex.split(line.partition(":")[2]) for line in lines if " medtask " in line]
    assert [words[1:5] for words in commands] == [
        ["evaluate", "answers.csv", "--task", "task.yaml"]
    ] * 2


def test_a_calibration_is_refused_for_the_right_reason(
    medtask: RunCommand, run_folder: Path
) -> None:
    Path("answers.csv").write_text("id,answer,gold\n1,curative,curative\n2,palliative,curative\n")
    Path("written.csv").write_text("id,answer,corrected\n2,palliative,ok\n")
    assert medtask("gold", "answers.csv", "written.csv", "--selection", "review").code == 0
    gold = ("--gold", "answers-gold/gold.csv", "--no-baselines")
    shown = medtask("evaluate", "answers.csv", *gold, "--calibrate", "auto", "--sets", "0.1")
    assert shown.out.count("no row with gold has probabilities") == 2
