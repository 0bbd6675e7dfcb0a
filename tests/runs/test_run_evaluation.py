"""Evaluations of runs and tables, held against arithmetic of the test's own."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, matthews_corrcoef

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import RunLocked, UsageError
from medtask.evaluation.calibration.acceptance import Acceptance
from medtask.evaluation.calibration.prediction_sets import PredictionSets
from medtask.evaluation.calibration.transforms import Calibration
from medtask.evaluation.statistics.refusal import Refusal
from medtask.runs.evaluation_report import (
    build_report_sections,
    list_evaluation_lines,
    write_evaluation_report,
)
from medtask.runs.local_run import run
from medtask.runs.lock import lock_run
from medtask.runs.open_answers import open_answers
from medtask.runs.probability_arrays import collect_probabilities, list_outcomes
from medtask.runs.run_evaluation import EvaluationOptions, evaluate_answers
from medtask.runs.triage import CHUNK_ROWS, triage_rows, write_prediction_sets, write_triage
from medtask.tasks.load import load_task
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table

LABELS = ("benign", "malignant", "unclear")
NO_BASELINES = EvaluationOptions(baselines=False)


def write_table(
    path: Path,
    rows: int = 800,
    *,
    seed: int = 0,
    sharpness: float = 3.0,
    blank: float = 0.05,
    groups: int = 0,
) -> Path:
    """Answers of a model whose probabilities are right before they are sharpened."""
    chance, random_ = random.Random(seed), np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "id",
                "text",
                "group",
                "gold",
                "second",
                "answer",
                "confidence",
                *(f"p:{name}" for name in LABELS),
            ]
        )
        for row in range(rows):
            shares = random_.dirichlet([0.4] * 3)
            gold = LABELS[random_.choice(3, p=shares)]
            output = shares**sharpness / (shares**sharpness).sum()
            answer = LABELS[int(output.argmax())]
            second = gold if chance.random() < 0.9 else chance.choice(LABELS)
            group = f"g{row % groups}" if groups else ""
            if chance.random() < blank:
                writer.writerow([row, f"text {row % 500}", group, gold, second, "", "", "", "", ""])
            else:
                writer.writerow(
                    [row, f"text {row % 500}", group, gold, second, answer, output.max(), *output]
                )
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_figures_of_a_foreign_table_are_scikit_learns(tmp_path: Path) -> None:
    path = write_table(tmp_path / "other.csv")
    found = evaluate_answers(open_answers(path), NO_BASELINES)
    rows = read_csv(path)
    gold, result = [row["gold"] for row in rows], [row["answer"] or "none" for row in rows]
    output: dict[str, Any] = found.to_json()
    assert output["n"] == 800 and output["statuses"] == {
        "ok": 800 - result.count("none"),
        "failed": result.count("none"),
    }
    figures = {name: figure["value"] for name, figure in output["metrics"].items() if figure}
    assert figures["accuracy"] == pytest.approx(accuracy_score(gold, result))
    assert figures["macro_f1"] == pytest.approx(
        f1_score(gold, result, average="macro", labels=sorted(set(gold)), zero_division=0)
    )
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(gold, result))
    assert figures["mcc"] == pytest.approx(matthews_corrcoef(gold, result))
    assert all(
        figure["low"] <= figure["value"] <= figure["high"]
        for figure in output["metrics"].values()
        if figure
    )
    assert output["acceptance"] is None and output["calibration"] is None
    json.dumps(output)


def test_two_evaluations_do_not_write_the_same_files(tmp_path: Path) -> None:
    table, out = write_table(tmp_path / "table.csv", 100), tmp_path / "out"
    options = {"out": out, "max_error": 0.3, "baselines": False}
    medtask.evaluate(table, **options)  # type: ignore[arg-type]
    before = (out / "review.csv").read_bytes()
    with lock_run(out), pytest.raises(RunLocked, match="is in use by"):
        medtask.evaluate(table, **(options | {"max_error": 0.01}))  # type: ignore[arg-type]
    assert (out / "review.csv").read_bytes() == before


def test_accepted_and_review_together_are_the_table(tmp_path: Path) -> None:
    answers = open_answers(write_table(tmp_path / "other.csv", 2000, sharpness=1.0))
    found = evaluate_answers(answers, EvaluationOptions(max_error=0.1, baselines=False))
    assert isinstance(found.acceptance, Acceptance) and found.acceptance.threshold is not None
    accepted, review = write_triage(tmp_path, answers, found.acceptance)
    first, second = read_csv(tmp_path / "accepted.csv"), read_csv(tmp_path / "review.csv")
    assert (len(first), len(second), accepted + review) == (accepted, review, 2000)
    assert {row["id"] for row in first} | {row["id"] for row in second} == {
        str(row) for row in range(2000)
    }
    assert all(float(row["confidence"]) >= found.acceptance.threshold - 1e-4 for row in first)
    assert all(
        not row["confidence"] or float(row["confidence"]) <= found.acceptance.threshold + 1e-4
        for row in second
    )
    assert {row["status"] for row in first} == {"accepted"}
    again = open_answers(tmp_path / "accepted.csv", gold="gold")
    assert all(row.answer.value is not None for row in again.rows())
    worth = [float(row["expected_errors"]) for row in second]
    assert worth == sorted(worth, reverse=True)
    wrong = sum(row["answer"] != row["gold"] for row in first)
    assert (
        wrong / accepted <= 0.1
        and found.acceptance.accepted == accepted
        and found.acceptance.errors == wrong
    )


def test_a_long_review_table_is_sorted_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = open_answers(write_table(tmp_path / "other.csv", sharpness=1.0))
    found = evaluate_answers(answers, EvaluationOptions(max_error=0.2, baselines=False)).acceptance
    assert isinstance(found, Acceptance) and CHUNK_ROWS > 800
    write_triage(tmp_path, answers, found)
    full = (tmp_path / "review.csv").read_bytes()
    monkeypatch.setattr("medtask.runs.triage.CHUNK_ROWS", 97)
    write_triage(tmp_path, answers, found)
    assert (tmp_path / "review.csv").read_bytes() == full


def test_by_class_every_row_is_compared_with_the_threshold_of_its_answer(tmp_path: Path) -> None:
    answers = open_answers(write_table(tmp_path / "other.csv", 3000, sharpness=1.0))
    found = evaluate_answers(
        answers, EvaluationOptions(max_error=0.15, by_class=True, baselines=False)
    ).acceptance
    assert isinstance(found, Acceptance) and found.class_thresholds
    limits = {rule.name: rule.threshold for rule in found.class_thresholds.values()}
    accepted, _, _ = triage_rows(answers, found)
    expected = [
        row.row
        for row in answers.rows()
        if row.answer.value in limits
        and (limit := limits[str(row.answer.value)]) is not None
        and (row.answer.confidence or 0) >= limit
    ]
    assert accepted.tolist() == expected and expected


def test_thresholds_by_class_need_one_label_per_row(tmp_path: Path) -> None:
    """Sets of labels are no classes: all of them were one class called "-1"."""
    path = tmp_path / "other.csv"
    lines = [f"{row},a;b,a;b,{0.5 + row / 500}\n" for row in range(200)]
    path.write_text("id,answer,gold,confidence\n" + "".join(lines))
    answers = open_answers(path, kind="labels")
    with pytest.raises(UsageError, match="--by-class needs answers that are one label"):
        evaluate_answers(answers, EvaluationOptions(max_error=0.1, by_class=True, baselines=False))


def test_calibration_undoes_what_was_sharpened(tmp_path: Path) -> None:
    found = evaluate_answers(
        open_answers(write_table(tmp_path / "other.csv", 3000)),
        EvaluationOptions(calibrate="temperature", baselines=False),
    )
    assert isinstance(
        found.calibration, Calibration
    ) and found.calibration.temperature == pytest.approx(3.0, rel=0.15)
    assert found.saved_calibration is not None and found.saved_calibration.run == "other"
    assert "a table's own probabilities stay as they are" in list_evaluation_lines(found)[-1]


def test_batch_calibration_needs_no_gold(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "id,answer,p:a,p:b\n"
        + "".join(f"{row},a,{0.6 + row % 7 / 20},{0.4 - row % 7 / 20}\n" for row in range(90))
    )
    found = evaluate_answers(open_answers(path), EvaluationOptions(calibrate="batch"))
    assert (
        isinstance(found.calibration, Calibration)
        and found.calibration.method == "batch"
        and found.summary.gold is None
    )


@pytest.mark.parametrize(
    "requested",
    [
        EvaluationOptions(max_error=0.1),
        EvaluationOptions(calibrate="auto"),
        EvaluationOptions(sets=0.1),
    ],
)
def test_options_that_need_gold_are_refused_without_it(
    tmp_path: Path, requested: EvaluationOptions
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,answer,confidence\n1,a,0.5\n")
    with pytest.raises(UsageError, match="needs rows with gold"):
        evaluate_answers(open_answers(path), requested)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,answer,gold\n1,a,a\n2,b,b\n", "no answer has a confidence"),
        ("id,answer,confidence,gold\n1,a,0.5,\n", "no row has usable gold"),
        ("id,answer,confidence,gold\n1,a,0.9,a\n2,a,0.8,a\n", "gold rows"),
        ("id,answer,confidence,gold\n1,,,a\n2,,,a\n", "no answer has a confidence"),
        ("id,answer,confidence,gold\n", "no row has usable gold"),
    ],
)
def test_too_little_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    requested = EvaluationOptions(max_error=0.05, calibrate="auto", sets=0.1, baselines=False)
    found = evaluate_answers(open_answers(path, kind="label"), requested)
    assert found.acceptance is None and reason in str(found.refusals["acceptance"])
    assert set(found.refusals) == {"acceptance", "calibration", "prediction_sets"}
    assert found.calibration is found.prediction_sets is found.saved_calibration is None
    assert found.to_json()["acceptance"] is None
    assert sum("refused" in line for line in list_evaluation_lines(found)) == 3
    write_evaluation_report(tmp_path, found)


def test_groups_widen_the_intervals_and_one_row_of_each_is_promised_for(tmp_path: Path) -> None:
    path = write_table(tmp_path / "other.csv", 900, sharpness=1.0, groups=30)
    output = evaluate_answers(open_answers(path), EvaluationOptions(max_error=0.2, baselines=False))
    assert output.summary.gold is not None and output.summary.gold.scored_rows.groups is not None
    grouped = output.acceptance
    grouped = grouped or output.refusals["acceptance"]
    assert isinstance(grouped, Refusal | Acceptance)
    assert grouped.rows == 30


def test_two_readers_and_the_model(tmp_path: Path) -> None:
    path = write_table(tmp_path / "other.csv", blank=0.0)
    found = evaluate_answers(
        open_answers(path), EvaluationOptions(readers=("gold", "second"), baselines=False)
    ).annotators
    rows = read_csv(path)
    assert found is not None and found.inter_annotator.kappa is not None
    assert found.inter_annotator.kappa.value == pytest.approx(
        cohen_kappa_score([row["gold"] for row in rows], [row["second"] for row in rows])
    )
    assert found.n_disagreements == sum(row["gold"] != row["second"] for row in rows)
    with pytest.raises(UsageError, match='no column "third" for an annotator'):
        evaluate_answers(open_answers(path), EvaluationOptions(readers=("gold", "third")))


def test_readers_without_common_rows_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,answer,one,two\n1,a,a,\n2,b,,b\n")
    found = evaluate_answers(
        open_answers(path), EvaluationOptions(readers=("one", "two"), baselines=False)
    )
    assert found.annotators is None and found.notes[-1].startswith(
        "no row has an answer of both one and two"
    )


def test_prediction_sets_hold_the_truth_as_often_as_promised(tmp_path: Path) -> None:
    answers = open_answers(write_table(tmp_path / "other.csv", 2000))
    found = evaluate_answers(answers, EvaluationOptions(sets=0.1, baselines=False)).prediction_sets
    assert isinstance(found, PredictionSets)
    fresh = open_answers(write_table(tmp_path / "fresh.csv", 4000, seed=7))
    shares, gold, _ = collect_probabilities(fresh, fresh.rows(), LABELS, with_gold=True)
    held_out = found.apply(shares)[np.arange(len(gold)), gold].mean()
    assert held_out == pytest.approx(0.9, abs=0.025)
    write_prediction_sets(tmp_path, fresh, found)
    listed = read_csv(tmp_path / "sets.csv")
    output = [
        row["gold"] in row_set["possible"].split("; ")
        for row, row_set in zip(read_csv(tmp_path / "fresh.csv"), listed, strict=True)
    ]
    assert sum(output) == round(held_out * len(gold))
    assert all(
        int(row["size"]) == len(row["possible"].split("; ")) for row in listed if row["possible"]
    )


@pytest.mark.parametrize("kind", sorted(ANSWER_SPECS))
def test_a_run_of_every_kind_is_evaluated(kind: str, tmp_path: Path) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 60)
    task = load_task(folder)
    out = run(task, FakeEngine(), table, out=tmp_path / "out").folder
    rows = [row.answer for row in open_answers(out).rows()]
    truths = {answer.record_id: answer.value for answer in rows if answer.value is not None}
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        "".join(
            json.dumps({"case": name, "gold": value or "[]"}) + "\n"
            for name, value in truths.items()
        )
    )
    found = evaluate_answers(open_answers(out, gold=str(gold)), EvaluationOptions(max_error=0.2))
    assert found.summary.gold is not None and found.summary.gold.evaluation is not None
    headline = next(figure for figure in found.summary.gold.evaluation.metrics.values() if figure)
    assert headline.value == pytest.approx(1.0) or kind in ("several", "labels")
    assert found.summary.tokens_read > 0
    write_evaluation_report(tmp_path, found)
    page = (tmp_path / "report.html").read_text()
    assert all(section.title in page for section in build_report_sections(found))
    json.loads((tmp_path / "report.json").read_text())


def test_kinds_without_probabilities_cannot_be_calibrated(tmp_path: Path) -> None:
    task = load_task(write_task_and_table("answer", tmp_path, 1)[0])
    with pytest.raises(UsageError, match="no probabilities"):
        list_outcomes(task)


def test_evaluation_is_available_from_python(tmp_path: Path) -> None:
    path = write_table(tmp_path / "other.csv")
    evaluation = medtask.evaluate(str(path), max_error=0.3, baselines=False)
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy is not None and accuracy.low is not None and accuracy.n == evaluation.n
    assert evaluation.acceptance and evaluation.acceptance.threshold
    assert evaluation.report and evaluation.report.read_text().startswith("<!doctype html>")
    assert set(evaluation.files) == {"report.html", "report.json", "accepted.csv", "review.csv"}
    assert json.loads(json.dumps(evaluation.to_json()))["folder"] == str(evaluation.folder)
