"""Gold of multiple choice from table to metrics: what is inferred, reported, and not counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask import evaluate, load_task, run
from medtask.engines.fake import FakeEngine
from medtask.errors import InputError
from medtask.runs.audit_sample import SAMPLE_FILE, draw_audit_sample, estimate_from_labels
from medtask.runs.local_run import Run
from medtask.runs.open_answers import open_answers
from medtask.tables.read import read_table

TASK = """\
instruction: Answer the question.
input: "{{ question }}"
gold: right
answer: {kind: choice, options: options}
"""
GROUPS = ["B", "AB", "A", "O"]
ORGANS = ["Liver", "Heart", "Lung", "Bone"]


def run_rows(folder: Path, *rows: tuple[list[str], object], answer: str = "") -> Run:
    text = TASK.replace("options: options}", f"options: options{answer}}}")
    (folder / "task.yaml").write_text(text, "utf-8")
    table = [
        {"question": f"Question {number}?", "options": options, "right": right}
        for number, (options, right) in enumerate(rows, 1)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, table)), "utf-8")
    return run(
        load_task(folder),
        FakeEngine(seed=2),
        folder / "rows.jsonl",
        out=folder / "run",
        baselines=False,
    )


def read_gold(result: Run) -> list[object]:
    assert result.summary is not None and result.summary.gold is not None
    return list(result.summary.gold.sample.gold)


def test_the_form_of_the_column_is_inferred_reported_and_used_everywhere(tmp_path: Path) -> None:
    result = run_rows(tmp_path, (GROUPS, "A"), (GROUPS, "O"), (ORGANS, "Lung"))
    note = (
        'the gold column "right" is read as texts of options, because only these fit all rows '
        "that can be read (gold_is: text)"
    )
    assert note in result.notes
    assert read_gold(result) == ["C", "D", "C"]
    again = evaluate(result.folder, baselines=False)
    assert again.metrics["accuracy"] == result.metrics["accuracy"]
    assert again.to_json()["cells"]["gold"]["form_notes"] == [note.partition('" ')[2]]
    assert "gold_is: text" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_rows_with_two_meanings_are_named_and_not_counted(tmp_path: Path) -> None:
    result = run_rows(tmp_path, (ORGANS, "B"), (GROUPS, "A"), (ORGANS, "Lung"))
    assert read_gold(result) == ["B", "C"]
    (note,) = (note for note in result.notes if "different ways" in note)
    assert "1 row (row 2)" in note
    assert "gold_is: letter or text" in note


def test_numbers_that_can_be_counted_from_0_or_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gold_is: index0 or index1"):
        run_rows(tmp_path, (ORGANS, 1), (ORGANS, 2), (ORGANS, 3))


@pytest.mark.parametrize(("form", "letters"), [("index0", "BCD"), ("index1", "ABC")])
def test_the_task_states_where_numbers_begin(tmp_path: Path, form: str, letters: str) -> None:
    result = run_rows(tmp_path, (ORGANS, 1), (ORGANS, 2), (ORGANS, 3), answer=f", gold_is: {form}")
    assert read_gold(result) == list(letters)


def test_answers_of_medtask_are_letters_whatever_gold_is(tmp_path: Path) -> None:
    result = run_rows(tmp_path, *[(GROUPS, "O")] * 8, answer=", gold_is: text")
    assert result.summary is not None
    again = evaluate(result.folder, baselines=False)
    assert again.metrics["accuracy"] == result.metrics["accuracy"]
    assert again.summary.statuses == result.summary.statuses


@pytest.mark.parametrize("form", ["", ", gold_is: text", ", gold_is: index0"])
def test_labels_of_an_audit_are_letters_whatever_gold_is(tmp_path: Path, form: str) -> None:
    gold = {"": "O", ", gold_is: text": "O", ", gold_is: index0": 3}[form]
    result = run_rows(tmp_path, *[(GROUPS, gold)] * 60, answer=form)
    answers, folder = open_answers(result.folder), tmp_path / "audit"
    letters = {row.answer.record_id: row.answer.value for row in answers.rows()}
    draw_audit_sample(answers, folder, budget=30)
    rows = list(read_table(folder / SAMPLE_FILE).rows())
    lines = [f"{row['id']},{letters[str(row['id'])]}" for row in rows]
    (folder / SAMPLE_FILE).write_text("\n".join(["id,gold", *lines]) + "\n", "utf-8")
    estimate, _ = estimate_from_labels(answers, folder)
    assert estimate.accuracy.value == pytest.approx(1.0, abs=0.02)
