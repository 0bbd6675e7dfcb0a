"""Metrics are based on rows that are new to the model, and reports say which rows are not."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import InputError, UsageError
from medtask.records import LeftOut, Prompt, Record
from medtask.runs.measured_rows import (
    extend_to_groups,
    find_left_out,
    left_out_from_json,
    left_out_to_json,
    make_record_key,
)
from medtask.tasks.prompt import build_prompt
from medtask.tasks.row_fingerprints import (
    TRAINING_ROWS_FILE,
    RowKey,
    fingerprint_rows,
    write_fingerprints,
)
from medtask.tasks.task import MultiLabel, Task
from support.injuries import make_task, write_notes, write_table
from support.small_trainings import make_rows
from support.small_trainings import make_task as make_parts_task


def make_trained_engine(folder: Path, task: Task, rows: Sequence[dict[str, str]]) -> FakeEngine:
    """An engine whose folder says that it was trained on the rows."""
    folder.mkdir(exist_ok=True)
    column = task.group_column
    keys = [
        make_record_key(task, Record("", row, group=row.get(column) if column else None))
        for row in rows
    ]
    write_fingerprints(folder / TRAINING_ROWS_FILE, [fingerprint_rows(keys, "training", "table")])
    engine = FakeEngine()
    engine.info = replace(engine.info, trained_folders=(str(folder),))
    return engine


groups = st.none() | st.sampled_from(["P1", "p 2", "P3", "P4"])
keys = st.lists(
    st.builds(lambda text, group: RowKey((text,), group), st.binary(min_size=1, max_size=1), groups)
)


@settings(deadline=None)
@given(keys, keys, st.sampled_from(["training", "validation", "calibration", "example"]))
def test_no_row_that_was_used_is_measured_nor_any_row_of_its_group(rows, used, use) -> None:
    left_out = find_left_out(rows, [fingerprint_rows(used, use, "s")] if used else [])
    texts = {key.hashes[0] for key in used}
    used_groups = {key.group for key in used if key.group is not None}
    known_groups = used_groups or {
        key.group for key in rows if key.hashes[0] in texts and key.group is not None
    }
    expected = {
        row
        for row, key in enumerate(rows, 1)
        if key.hashes[0] in texts or key.group in known_groups
    }
    assert set(left_out) == expected
    assert left_out_from_json(json.loads(json.dumps(left_out_to_json(left_out)))) == left_out


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 30), st.sampled_from(LeftOut)), st.lists(groups, max_size=30))
def test_later_groups_are_left_out_as_a_whole(left_out, names) -> None:
    extended = extend_to_groups(left_out, names)
    assert {row: extended[row] for row in left_out} == left_out
    found = {names[row - 1] for row in left_out if row <= len(names)} - {None}
    assert set(extended) == set(left_out) | {
        row for row, name in enumerate(names, 1) if name in found
    }


def test_an_example_in_the_task_file_is_found_in_the_table_with_its_group(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=12, patients=4)
    shown = f"  {table[4]['note'].upper()}  "
    task = make_task(tmp_path / "t", group="patient", examples=[{"note": shown, "answer": "burn"}])
    run = medtask.run(task, FakeEngine(), tmp_path / "notes.csv", out=tmp_path / "run")
    assert run.summary is not None
    assert run.summary.gold is not None
    assert run.summary.gold.left_out == {LeftOut.EXAMPLE: 1, LeftOut.EXAMPLE_GROUP: 2}
    assert run.summary.gold.rows == 9


def test_selected_examples_leave_no_row_out(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.csv", rows=12)
    examples = {"file": str(tmp_path / "notes.csv"), "select": "nearest", "k": 2}
    task = make_task(tmp_path / "t", examples=examples)
    run = medtask.run(task, FakeEngine(), tmp_path / "notes.csv", out=tmp_path / "run")
    assert run.summary is not None
    assert run.summary.gold is not None
    assert run.summary.gold.rows == 12


def test_rows_that_trained_the_model_do_not_count_in_run_evaluate_and_compare(
    tmp_path: Path,
) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=40, patients=20)
    task = make_task(tmp_path / "t", group="patient")
    engine = make_trained_engine(tmp_path / "model", task, table[:10])
    first = medtask.run(task, engine, tmp_path / "notes.csv", out=tmp_path / "trained")
    # The patients of the ten training rows have ten more rows.
    assert first.summary is not None
    assert first.summary.gold is not None
    assert first.summary.gold.left_out == {LeftOut.TRAINING: 10, LeftOut.TRAINING_GROUP: 10}
    medtask.run(task, FakeEngine(seed=1), tmp_path / "notes.csv", out=tmp_path / "other")
    evaluation = medtask.evaluate(tmp_path / "trained", max_error=0.9)
    assert evaluation.metrics == first.metrics
    assert evaluation.acceptance is None or evaluation.acceptance.rows == 20
    comparison = medtask.compare([tmp_path / "trained", tmp_path / "other"])
    assert comparison.n == 20
    assert comparison.to_json()["rows"]["left_out"] == {"training": 10, "training_group": 10}
    assert any("trained the model" in note for note in comparison.notes)


def test_a_real_trained_model_has_no_metrics_on_its_own_rows_but_on_others(tmp_path: Path) -> None:
    task = make_parts_task(tmp_path / "task")
    rows = make_rows()
    medtask.train(task, rows, out=tmp_path / "model", method="linear")
    model = medtask.load_model(str(tmp_path / "model"))
    own = medtask.run(task, model, rows, out=tmp_path / "own")
    assert own.metrics == {}
    assert own.summary is not None
    assert own.summary.gold is not None
    assert sum(own.summary.gold.left_out.values()) == len(rows)
    assert "medtask train TASK DATA --folds 5" in (tmp_path / "own" / "report.html").read_text()
    evaluation = medtask.evaluate(tmp_path / "own", max_error=0.1)
    assert evaluation.metrics == {}
    assert "acceptance" in evaluation.refusals
    with pytest.raises(InputError, match="trained the model") as caught:
        medtask.run(task, FakeEngine(), rows, out=tmp_path / "fake")
        medtask.compare([tmp_path / "own", tmp_path / "fake"])
    assert "--folds 5" in str(caught.value.fix)
    others = [{**row, "text": f"{row['text']} on Monday"} for row in rows]
    new = medtask.run(task, model, others, out=tmp_path / "new")
    assert new.summary is not None
    assert new.summary.gold is not None
    assert new.summary.gold.left_out == {}
    assert new.summary.gold.rows == len(rows)


def test_a_calibration_is_not_judged_on_the_rows_that_it_was_fitted_on(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=400)
    task = make_task(tmp_path / "t")
    medtask.run(task, FakeEngine(), tmp_path / "notes.csv", out=tmp_path / "run", baselines=False)
    fitted = medtask.evaluate(tmp_path / "run", calibrate="temperature", baselines=False)
    assert fitted.saved_calibration is not None
    again = medtask.run(
        task, FakeEngine(), tmp_path / "notes.csv", out=tmp_path / "run", baselines=False
    )
    assert again.summary is not None
    gold = again.summary.gold
    assert gold is not None
    # A temperature changes no answer: the metrics stay, figures on confidence are left out.
    assert gold.left_out == {LeftOut.CONFIDENCE: 400}
    assert gold.rows == 400
    assert gold.reliability is None or gold.reliability.rows == 0
    assert medtask.evaluate(tmp_path / "run", max_error=0.5, baselines=False).acceptance is None
    more = [*table, {**table[0], "id": "new", "note": "A burn of the thumb"}]
    write_table(tmp_path / "more.csv", more)
    other = medtask.run(
        task, FakeEngine(), tmp_path / "more.csv", out=tmp_path / "more", baselines=False
    )
    assert other.summary is not None
    assert other.summary.gold is not None
    assert len(other.summary.gold.scored_rows.rows) == 1
    bare = medtask.run(
        task,
        FakeEngine(),
        tmp_path / "notes.csv",
        out=tmp_path / "run",
        calibrated=False,
        baselines=False,
    )
    assert bare.summary is not None
    assert bare.summary.gold is not None
    assert bare.summary.gold.left_out == {}


def test_a_calibration_that_changes_answers_leaves_its_rows_out_of_all_metrics(
    tmp_path: Path,
) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=400)
    for row in table:
        row["gold"] = "wound" if int(row["id"][1:]) % 5 == 0 else "burn"
    write_table(tmp_path / "notes.csv", table)
    engine = FakeEngine()
    task = make_task(tmp_path / "t")
    medtask.run(task, engine, tmp_path / "notes.csv", out=tmp_path / "run", baselines=False)
    fitted = medtask.evaluate(tmp_path / "run", calibrate="bias", baselines=False)
    assert fitted.saved_calibration is not None, fitted.refusals
    again = medtask.run(task, engine, tmp_path / "notes.csv", out=tmp_path / "run", baselines=False)
    assert again.metrics == {}
    assert "--uncalibrated" in (tmp_path / "run" / "report.html").read_text()
    # It can be fitted again: that uses the model's own probabilities.
    refitted = medtask.evaluate(tmp_path / "run", calibrate="bias", baselines=False)
    assert refitted.saved_calibration is not None
    assert refitted.saved_calibration.rows == fitted.saved_calibration.rows


def test_groups_named_at_evaluation_extend_what_is_left_out(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.csv", rows=12, patients=4)
    examples = {"file": str(tmp_path / "notes.csv"), "select": "first", "k": 1}
    task = make_task(tmp_path / "t", examples=examples)
    medtask.run(task, FakeEngine(), tmp_path / "notes.csv", out=tmp_path / "run")
    plain = medtask.evaluate(tmp_path / "run", baselines=False)
    assert plain.to_json()["gold"]["left_out"] == {"example": 1}  # type: ignore[index]
    grouped = medtask.evaluate(tmp_path / "run", group="patient", baselines=False)
    assert grouped.to_json()["gold"]["left_out"] == {  # type: ignore[index]
        "example": 1,
        "example_group": 2,
    }


def test_answers_of_another_tool_leave_the_examples_of_the_named_task_out(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=12)
    task = make_task(tmp_path / "t", examples=[{"note": table[2]["note"], "answer": "burn"}])
    write_table(tmp_path / "tool.csv", [{**row, "answer": "wound"} for row in table])
    evaluation = medtask.evaluate(tmp_path / "tool.csv", task=task, gold="gold", baselines=False)
    assert evaluation.to_json()["gold"]["left_out"] == {"example": 1}  # type: ignore[index]
    assert isinstance(build_prompt(task, Record("1", table[0])), Prompt)


def test_a_model_folder_without_a_list_of_its_rows_is_noted(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.csv", rows=6)
    engine = FakeEngine()
    engine.info = replace(engine.info, trained_folders=(str(tmp_path),))
    run = medtask.run(make_task(tmp_path / "t"), engine, tmp_path / "notes.csv", out=tmp_path / "r")
    assert any("does not say which rows" in note for note in run.notes)


def test_an_audit_is_about_the_rows_that_are_new_to_the_model(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=100)
    task = make_task(tmp_path / "t")
    engine = make_trained_engine(tmp_path / "model", task, table[:60])
    medtask.run(task, engine, tmp_path / "notes.csv", out=tmp_path / "run")
    drawn = medtask.audit(tmp_path / "run", budget=30)
    assert drawn.sample is not None
    assert drawn.sample.rows == 40
    assert drawn.notes == ("left out of the audit: 60 rows trained the model",)
    with drawn.sample.table_path.open(newline="") as stream:
        sample = list(csv.DictReader(stream))
    golds = {row["id"]: row["gold"] for row in table}
    assert not {row["id"] for row in sample} & {row["id"] for row in table[:60]}
    write_table(drawn.sample.table_path, [{**row, "gold": golds[row["id"]]} for row in sample])
    audited = medtask.audit(tmp_path / "run")
    assert audited.result is not None
    assert audited.result.rows == 40
    engine = make_trained_engine(tmp_path / "model", task, table)
    medtask.run(task, engine, tmp_path / "notes.csv", out=tmp_path / "all")
    with pytest.raises(UsageError, match="no row can be audited: 100 rows trained the model") as no:
        medtask.audit(tmp_path / "all")
    assert no.value.fix.startswith("audit a run of other rows, or ")


def test_thresholds_are_fitted_on_rows_that_are_new_to_the_model(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=60, kind="labels")
    task = replace(
        make_task(tmp_path / "t", {"kind": "labels", "labels": ["wound", "burn"]}),
        answer_spec=MultiLabel(fit="f1"),
    )
    half = make_trained_engine(tmp_path / "half", task, table[:30])
    medtask.run(task, half, tmp_path / "notes.csv", out=tmp_path / "one")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["thresholds_fitted"].startswith("Fitted on the gold of 30 rows.")
    known = make_trained_engine(tmp_path / "known", task, table)
    run = medtask.run(task, known, tmp_path / "notes.csv", out=tmp_path / "two")
    assert "thresholds are not fitted: no row with gold is new to the model" in run.notes


def test_gold_that_is_added_after_the_run_is_left_out_as_well(tmp_path: Path) -> None:
    table = write_notes(tmp_path / "notes.csv", rows=20)
    write_table(tmp_path / "plain.csv", [{**row, "gold": ""} for row in table])
    task = make_task(tmp_path / "t")
    engine = make_trained_engine(tmp_path / "model", task, table[:15])
    medtask.run(task, engine, tmp_path / "plain.csv", out=tmp_path / "run")
    evaluation = medtask.evaluate(tmp_path / "run", gold=f"{tmp_path / 'notes.csv'}#gold")
    assert evaluation.to_json()["gold"]["left_out"] == {"training": 15}  # type: ignore[index]
    assert evaluation.metrics["accuracy"] is not None
    assert evaluation.metrics["accuracy"].n == 5
