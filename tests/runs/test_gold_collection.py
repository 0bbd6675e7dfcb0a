"""Corrections that people write are read back as gold; doubtful rows are not measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import InputError, UsageError
from medtask.records import LeftOut
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

ROWS = 120
LABELS = ("curative", "palliative", "staging")
Folder = Callable[[], Path]


@pytest.fixture
def run_folder(task: Task, tmp_path: Path) -> Path:
    """A run with gold in every second row, and its review.csv."""
    rows = [
        {
            "case_id": f"{number:04}",
            "procedure": f"operation {number}",
            "purpose": LABELS[number % 3] if number % 2 else "",
        }
        for number in range(ROWS)
    ]
    folder = tmp_path / "out"
    run(task, FakeEngine(), rows, out=folder, gold="purpose", baselines=False)
    evaluation = medtask.evaluate(folder, max_error=0.9, level=0.5, baselines=False)
    assert evaluation.acceptance is not None
    return folder


def write(path: Path, values: dict[str, str], column: str = "corrected") -> None:
    """Write values by id into a column, as a spreadsheet saves them."""
    rows = [dict(row) for row in read_table(path)]
    for row in rows:
        row[column] = values.get(str(row["case_id"]), "")
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def list_ids(path: Path, *, with_gold: bool) -> list[str]:
    return [str(row["case_id"]) for row in read_table(path) if bool(row["purpose"]) is with_gold]


def read_gold(path: Path) -> dict[str, dict[str, object]]:
    return {str(row["case_id"]): dict(row) for row in read_table(path)}


@pytest.fixture
def review(run_folder: Path) -> Path:
    """A review table with all rows, so that any can be corrected."""
    path = run_folder / "review.csv"
    frame = pl.read_csv(run_folder / "answers.csv", infer_schema=False)
    frame.with_columns(expected_errors=pl.lit("0.5"), corrected=pl.lit("")).write_csv(path)
    return path


def test_corrections_join_the_gold_that_there_was(run_folder: Path, review: Path) -> None:
    new = list_ids(review, with_gold=False)[:3]
    known = list_ids(review, with_gold=True)[0]
    answers = {str(row["case_id"]): row["answer"] for row in read_table(review)}
    write(review, {new[0]: "STAGING", new[1]: "ok", known: "palliative"})
    before = read_gold(review)[known]["purpose"]
    collected = medtask.gold(run_folder)
    assert collected.sources == (review,)
    assert (collected.rows, collected.added) == (ROWS // 2 + 2, 2)
    assert collected.changed == int(before != "palliative")
    assert collected.confirmed + collected.corrected == 3
    assert any('"STAGING" is "staging"' in note for note in collected.notes)
    gold = read_gold(collected.file)
    assert gold[new[0]]["purpose"] == "staging"
    assert gold[new[1]]["purpose"] == answers[new[1]]
    assert gold[known]["purpose"] == "palliative"
    assert (gold[new[0]]["gold_selection"], gold[known]["gold_selection"]) == ("review", "table")
    assert gold[new[0]]["gold_how"] == "written in review.csv" and gold[new[0]]["gold_at"]
    assert new[2] not in gold


def test_rows_that_were_reviewed_because_they_are_doubtful_are_left_out_of_metrics(
    run_folder: Path, review: Path
) -> None:
    before = medtask.evaluate(run_folder, baselines=False)
    chosen = list_ids(review, with_gold=False)[:20]
    write(review, dict.fromkeys(chosen, "staging"))
    file = medtask.gold(run_folder).file
    after = medtask.evaluate(run_folder, gold=str(file), baselines=False, max_error=0.9, level=0.5)
    assert after.metrics["accuracy"] == before.metrics["accuracy"]
    answers = open_answers(run_folder, gold=str(file))
    assert answers.count_left_out() == {LeftOut.REVIEW: 20}
    assert after.summary.gold is not None
    assert after.summary.gold.scored_rows is not None
    assert len(after.summary.gold.scored_rows.rows) == ROWS // 2


def test_a_column_of_a_gold_table_leaves_out_the_rows_that_the_gold_file_leaves_out(
    run_folder: Path, review: Path, task: Task, tmp_path: Path
) -> None:
    write(review, dict.fromkeys(list_ids(review, with_gold=False)[:20], "staging"))
    file = medtask.gold(run_folder).file
    other = tmp_path / "other"
    result = run(task, FakeEngine(), file, out=other, gold="purpose", baselines=False)
    assert result.summary is not None and result.summary.gold is not None
    by_column = medtask.evaluate(other, gold="purpose", baselines=False)
    by_file = medtask.evaluate(other, gold=str(file), baselines=False)
    for evaluation in (by_column, by_file):
        assert evaluation.answers.count_left_out() == {LeftOut.REVIEW: 20}
        assert evaluation.metrics["accuracy"] == result.summary.metrics["accuracy"]
        assert evaluation.n == ROWS // 2 + 20
    systems = (run_folder, other)
    comparisons = [
        medtask.compare(systems, gold=gold, baselines=False) for gold in ("purpose", str(file))
    ]
    assert [comparison.n for comparison in comparisons] == [ROWS // 2] * 2


def test_metrics_on_doubtful_rows_alone_are_refused_with_the_reason(
    task: Task, tmp_path: Path
) -> None:
    rows = [{"case_id": f"c{number}", "procedure": f"operation {number}"} for number in range(40)]
    folder = run(task, FakeEngine(), rows, out=tmp_path / "out").folder
    frame = pl.read_csv(folder / "answers.csv", infer_schema=False)
    frame.with_columns(corrected=pl.lit("staging")).write_csv(folder / "review.csv")
    file = medtask.gold(folder).file
    evaluation = medtask.evaluate(folder, gold=str(file), max_error=0.1, calibrate="auto")
    assert not evaluation.metrics.get("accuracy")
    for part in ("acceptance", "calibration"):
        assert "chosen by their answers" in evaluation.refusals[part].reason


def test_the_caller_can_say_that_rows_were_drawn_at_random(run_folder: Path, review: Path) -> None:
    write(review, dict.fromkeys(list_ids(review, with_gold=False)[:20], "staging"))
    file = medtask.gold(run_folder, review, selection="random").file
    evaluation = medtask.evaluate(run_folder, gold=str(file), baselines=False)
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy is not None and accuracy.n == ROWS // 2 + 20


def test_invalid_corrections_are_named_with_what_they_may_mean(
    run_folder: Path, review: Path
) -> None:
    first, second = list_ids(review, with_gold=False)[:2]
    write(review, {first: "paliative", second: "unclear"})
    with pytest.raises(InputError, match='"paliative" in row 1 - did you mean "palliative"') as one:
        medtask.gold(run_folder)
    # What resembles no label may be record text.
    assert str(one.value).endswith("; row 3") and "unclear" not in str(one.value)
    assert '"ok" confirms' in one.value.fix
    assert not (run_folder / "gold.csv").exists()


def test_nothing_written_is_refused_with_where_to_write(run_folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing was written") as refusal:
        medtask.gold(run_folder)
    assert "review.csv" in refusal.value.fix


def test_a_second_collection_keeps_the_first(run_folder: Path, review: Path) -> None:
    first, second = list_ids(review, with_gold=False)[:2]
    write(review, {first: "staging"})
    medtask.gold(run_folder)
    write(review, {second: "curative"})
    gold = read_gold(medtask.gold(run_folder).file)
    assert (gold[first]["purpose"], gold[second]["purpose"]) == ("staging", "curative")
    assert gold[first]["gold_selection"] == "review"


def test_corrections_survive_another_evaluation(run_folder: Path, review: Path) -> None:
    first = list_ids(review, with_gold=False)[0]
    write(review, {first: "staging"})
    evaluation = medtask.evaluate(run_folder, max_error=0.9, level=0.5, baselines=False)
    assert any("review.corrected.csv" in note for note in evaluation.notes)
    assert read_gold(medtask.gold(run_folder).file)[first]["purpose"] == "staging"


def test_an_audit_sample_gives_gold_for_calibration_but_not_for_plain_metrics(
    run_folder: Path,
) -> None:
    audit = medtask.audit(run_folder, budget=40)
    assert audit.sample is not None
    rows = [{**row, "gold": "staging"} for row in read_table(audit.sample.table_path)]
    pl.DataFrame(rows, infer_schema_length=None).write_csv(audit.sample.table_path)
    # The same command reads the labels.
    assert medtask.audit(run_folder, budget=40).result is not None
    collected = medtask.gold(run_folder)
    assert collected.selections["audit"] > 0
    answers = open_answers(run_folder, gold=str(collected.file))
    assert set(answers.left_out.values()) == {LeftOut.AUDIT}
    with pytest.raises(UsageError, match="labels already"):
        medtask.audit(run_folder, budget=50)


def test_gold_of_rows_without_an_id_column_trains_a_model(
    task_folder: Path, tmp_path: Path
) -> None:
    file = task_folder / "task.yaml"
    file.write_text(file.read_text().replace("id: case_id\n", ""))
    task = load_task(task_folder)
    rows = [{"procedure": f"{LABELS[number % 3]} operation {number}"} for number in range(60)]
    folder = run(task, FakeEngine(), rows, out=tmp_path / "out").folder
    corrections = tmp_path / "read.csv"
    lines = [f"{number},{LABELS[(number - 1) % 3]}" for number in range(1, 61)]
    corrections.write_text("\n".join(["id,gold", *lines]))
    collected = medtask.gold(folder, corrections)
    assert dict(collected.selections) == {"random": 60}
    model = medtask.train(
        task, collected.file, gold="gold", method="linear", out=tmp_path / "model"
    )
    assert model.metrics["accuracy"].value == 1
