"""Tables of accepted rows and of rows to review have what a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import medtask
from medtask.engines.fake import FakeEngine
from medtask.runs.local_run import run
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

FIELDS = """
name: size
instruction: How large is it?
input: "{{ note }}"
id: id
gold: gold
answer:
  kind: fields
  schema:
    type: object
    required: [seen]
    properties:
      seen: {type: boolean}
      size: {type: number, unit: mm, nullable: true, quote: true}
"""
CHOICE = """
name: exam
instruction: Which option is right?
input: "{{ note }}"
id: id
gold: gold
answer: {kind: choice, options: [first, second]}
"""


def load(text: str, folder: Path) -> Task:
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    return load_task(folder / "task.yaml")


def test_fields_have_columns_of_their_own(tmp_path: Path) -> None:
    value = {"seen": True, "size": 18}
    rows = [
        {"id": f"r{number}", "note": f"{number}: 18 mm", "gold": json.dumps(value)}
        for number in range(30)
    ]
    written = json.dumps({"seen": True, "size": 18, "size_quote": "18 mm"})
    engine = FakeEngine(generated_texts={row["id"]: written for row in rows})
    run(load(FIELDS, tmp_path), engine, rows, out=tmp_path / "run", baselines=False)
    evaluation = medtask.evaluate(tmp_path / "run", max_error=0.5, baselines=False)
    assert evaluation.triage is not None
    tables = {
        name: list(read_table(tmp_path / "run" / f"{name}.csv")) for name in ("accepted", "review")
    }
    assert [len(tables[name]) for name in ("accepted", "review")] == list(evaluation.triage)
    assert sum(evaluation.triage) == 30
    row = [*tables["accepted"], *tables["review"]][0]
    assert row["answer.seen"] == "true" and row["answer.size"] == "18"
    assert row["answer.size_quote"] == "18 mm"


def test_options_are_named_by_their_texts(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{number}", "note": f"case {number}", "first": "rest", "second": "aspirin"}
        for number in range(40)
    ]
    rows = [{**row, "gold": "B"} for row in rows]
    run(load(CHOICE, tmp_path), FakeEngine(), rows, out=tmp_path / "run", baselines=False)
    evaluation = medtask.evaluate(tmp_path / "run", max_error=0.9, level=0.5, baselines=False)
    assert evaluation.triage is not None and sum(evaluation.triage) == 40
    texts = {"A": "rest", "B": "aspirin"}
    for name in ("accepted", "review"):
        for row in read_table(tmp_path / "run" / f"{name}.csv"):
            assert row["answer_text"] == texts[str(row["answer"])]


def test_the_report_says_how_many_rows_are_in_each_table(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{number}", "note": f"case {number}", "first": "a", "second": "b", "gold": "B"}
        for number in range(40)
    ]
    engine = FakeEngine(prefers={"B": 0.4, "A": 0.3})
    task = load(f"{CHOICE}review: {{confidence_below: 0.99}}\n", tmp_path)
    run(task, engine, rows, out=tmp_path / "run", baselines=False)
    evaluation = medtask.evaluate(tmp_path / "run", max_error=0.5, baselines=False)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "the 40 accepted answers, review.csv the 0 other rows" in page
    assert "The status of 40 rows is review" in page
    assert evaluation.to_json()["triage"] == {"accepted": 40, "review": 0}
