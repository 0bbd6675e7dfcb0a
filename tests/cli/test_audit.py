from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medtask.tables.read import read_table
from support.command_line import RunCommand


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{number},note {number},{'ab'[number % 3 == 0]},{0.5 + number % 50 / 100}"
        for number in range(300)
    ]
    Path("answers.csv").write_text("\n".join(["id,text,answer,confidence", *lines]) + "\n")
    return Path("answers.csv")


def fill_labels(path: Path, label: str = "a") -> None:
    rows = list(read_table(path).rows())
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "gold"])
        writer.writerows([row["id"], label] for row in rows)


def test_draw_label_estimate(medtask: RunCommand, table: Path) -> None:
    drawn = medtask("audit", table, "--budget", 60)
    assert drawn.code == 0
    first, then = drawn.out.splitlines()
    assert first == (
        "answers-audit/sample.csv   60 of 300 rows to label, in random order, without their answers"
    )
    assert "medtask audit answers.csv" in then
    waiting = medtask("audit", table)
    assert waiting.out == drawn.out
    fill_labels(Path("answers-audit/sample.csv"))
    output = medtask("audit", table)
    assert output.code == 0
    assert "of all 300 rows, from 60 labelled rows   from these rows alone:" in output.out
    document = json.loads(medtask("audit", table, "--json").out)
    assert document["sample"]["labelled"] == document["audit"]["looks"] == 60
    assert document["audit"]["accuracy"]["low"] < 0.67 < document["audit"]["accuracy"]["high"]
    assert {one["label"] for one in document["audit"]["prevalences"]} == {"a", "b"}


def test_labels_from_another_file(medtask: RunCommand, table: Path) -> None:
    assert json.loads(medtask("audit", table, "--json").out)["audit"] is None
    Path("answers-audit/sample.csv").rename("mine.csv")
    fill_labels(Path("mine.csv"))
    assert "accuracy" in medtask("audit", table, "--labels", "mine.csv").out


def test_mistakes_have_a_remedy(medtask: RunCommand, table: Path) -> None:
    assert medtask("audit", table, "--labels", "answers.csv").code == 2  # no sample yet
    assert medtask("audit", table, "--budget", 10).code == 2
    medtask("audit", table)
    fill_labels(Path("answers-audit/sample.csv"), "c")
    unknown = medtask("audit", table)
    assert unknown.code == 4
    assert "labels that the task does not know" in unknown.err
    assert medtask("audit", table, "--budget", 50).code == 2
    table.write_text(table.read_text().replace(",b,", ",a,", 1))
    fill_labels(Path("answers-audit/sample.csv"), "a")
    assert medtask("audit", table).code == 8
