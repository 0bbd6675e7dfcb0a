"""The evaluation at the end of a training, and the thresholds that later runs apply."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medtask
from medtask.runs.calibration_store import CALIBRATION_FILE
from medtask.tasks.task import Task
from medtask.training.model_validation import evaluate_with_thresholds
from medtask.training.trained_model import describe_better_baselines
from medtask.training.training_data import RowSelection, build_training_data
from support.small_trainings import make_task

SIGNS = {"pain": "pain sore aching", "fever": "hot febrile shivering", "rash": "itching red spots"}


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts in which most labels have a sign; some signs are there without their label."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        labels = [name for name in SIGNS if random.random() < 0.3]
        signs = [
            random.choice(words.split())
            for name, words in SIGNS.items()
            if random.random() < (0.8 if name in labels else 0.15)
        ]
        noise = [f"word{word}" for word in random.integers(0, 60, 12)]
        words = random.permutation([*signs, *noise]).tolist()
        rows.append({"text": " ".join([*words, f"visit {number}"]), "gold": labels})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> medtask.TrainedModel:
    folder = tmp_path_factory.mktemp("several")
    task = make_task(folder / "task", "labels", tuple(SIGNS))
    return medtask.train(task, make_rows(260), out=folder / "model", method="linear", gold="gold")


@pytest.fixture
def task(model: medtask.TrainedModel) -> Task:
    return medtask.load_task(model.path.parent / "task")


def read_thresholds(model: medtask.TrainedModel) -> dict[str, float]:
    (result,) = model.task_results
    return dict(result.thresholds)


def test_training_keeps_a_threshold_for_each_label(model: medtask.TrainedModel) -> None:
    thresholds = read_thresholds(model)
    assert list(thresholds) == list(SIGNS)
    assert all(0 < threshold < 0.5 for threshold in thresholds.values())
    (entry,) = json.loads((model.path / CALIBRATION_FILE).read_text())["calibrations"]
    assert entry["calibration"]["thresholds"] == list(thresholds.values())
    card = model.report.read_text()
    assert "| label | definition | training rows | threshold |" in card
    assert all(f"{threshold:.3f}" in card for threshold in thresholds.values())


def test_a_run_decides_by_these_thresholds_unless_the_task_names_some(
    model: medtask.TrainedModel, task: Task, tmp_path: Path
) -> None:
    rows = make_rows(120, seed=1)
    engine = medtask.load_model(str(model.path))
    result = medtask.run(task, engine, rows, out=tmp_path / "run", gold="gold")
    plain = medtask.run(task, engine, rows, out=tmp_path / "plain", gold="gold", calibrated=False)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    used = manifest["thresholds"]
    for row in medtask.read_table(result.folder / "answers.parquet"):
        probabilities = row["probabilities"]
        expected = [name for name in SIGNS if probabilities[name] >= used[name]]
        assert list(row["answer"] or []) == expected
    assert "Thresholds" in (result.folder / "report.html").read_text()
    scores = [
        medtask.evaluate(one.folder, gold="gold").metrics["micro_f1"] for one in (result, plain)
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0].value > scores[1].value
    assert "thresholds" not in json.loads((plain.folder / "manifest.json").read_text())


def test_a_threshold_of_the_task_comes_first(
    model: medtask.TrainedModel, task: Task, tmp_path: Path
) -> None:
    from medtask.tasks.kinds import get_task_kind

    strict = replace(task, answer_spec=replace(task.answer_spec, thresholds={"pain": 1.0}))
    applied = get_task_kind(strict).set_default_thresholds(read_thresholds(model))
    thresholds = get_task_kind(applied).thresholds
    assert thresholds["pain"] == 1.0
    assert thresholds["rash"] == read_thresholds(model)["rash"]


def test_a_task_that_names_thresholds_gets_none_from_training(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "labels", tuple(SIGNS), thresholds="0.4")
    trained = medtask.train(
        task, make_rows(80), out=tmp_path / "model", method="linear", gold="gold"
    )
    assert read_thresholds(trained) == {}


def test_a_recall_floor_of_the_task_is_the_goal_of_the_thresholds(tmp_path: Path) -> None:
    task = make_task(
        tmp_path / "task", "labels", tuple(SIGNS), thresholds={"fit": "recall", "floor": "0.95"}
    )
    trained = medtask.train(
        task, make_rows(260), out=tmp_path / "model", method="linear", gold="gold"
    )
    default = medtask.train(
        make_task(tmp_path / "other", "labels", tuple(SIGNS)),
        make_rows(260),
        out=tmp_path / "other-model",
        method="linear",
        gold="gold",
    )
    lower, best = read_thresholds(trained), read_thresholds(default)
    assert all(lower[name] < best[name] for name in SIGNS)


def test_other_methods_fit_thresholds_on_the_validation_rows(
    model: medtask.TrainedModel, task: Task, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model.path, copy)
    trained = medtask.train(
        task,
        make_rows(260),
        out=tmp_path / "hybrid",
        method="hybrid",
        base=[str(model.path), str(copy)],
        gold="gold",
        selection=RowSelection(share=0.4),
    )
    thresholds = read_thresholds(trained)
    assert list(thresholds) == list(SIGNS)
    assert all(0 < threshold < 0.6 for threshold in thresholds.values())
    assert thresholds != read_thresholds(model)


def test_a_better_baseline_is_named() -> None:
    from medtask.evaluation.statistics.intervals import Metric

    score, other = Metric(0.7, 0.6, 0.8, 100), Metric(0.75, 0.7, 0.8, 100)
    assert describe_better_baselines("micro_f1", score, {"TF-IDF": other}) == (
        "this model is not better than a simple method: its micro-F1 is 0.700 on the validation "
        "rows, TF-IDF has 0.750"
    )
    assert describe_better_baselines("micro_f1", other, {"TF-IDF": score}) == ""
    assert describe_better_baselines("micro_f1", None, {"TF-IDF": score}) == ""


def test_texts_are_measured_on_a_sample_and_not_on_the_first_rows(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(
        'name: t\ninstruction: Answer.\ninput: "{{ text }}"\ngold: gold\n'
        "answer: {kind: answer, max_tokens: 5}\n"
    )
    validation = [
        {"text": f"Question {number} of the hospital {'A' if number < 200 else 'B'}", "gold": "x"}
        for number in range(400)
    ]
    train = [{"text": f"Other question {number}", "gold": "x"} for number in range(20)]
    data = build_training_data(
        medtask.load_task(file),
        medtask.read_table(train),
        validation=medtask.read_table(validation),
    )

    evaluation, _ = evaluate_with_thresholds(
        medtask.load_model("fake:"), tmp_path / "run", data, {}
    )

    texts = [str(row.fields["text"]) for row in evaluation.answers.rows()]
    assert len(texts) == 100
    assert 30 < sum(text.endswith("B") for text in texts) < 70
