"""A model card describes the task and the training data that the model learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import medtask
from medtask.evaluation.statistics.intervals import Metric
from medtask.training.model_card_content import CardLabel, build_card_task
from medtask.training.training_data import build_training_data

EXAMPLE = Path(__file__).parents[2] / "examples" / "surgery_purpose"


def test_a_tasks_rows_are_counted_as_they_were_used() -> None:
    task = medtask.load_task(EXAMPLE)
    data = build_training_data(task, medtask.read_table(EXAMPLE / "procedures.csv"))
    figure = Metric(0.9, 20, 0.7, 0.97)
    output = build_card_task(
        data,
        {"accuracy": figure, "kappa": None},
        {"TF-IDF": {"accuracy": figure, "kappa": None}},
        "as it was",
    )
    assert (output.name, output.kind, output.table, output.phi) == (
        "surgery-purpose",
        "label",
        "procedures.csv",
        "no",
    )
    assert output.rows == output.train_rows + output.validation_rows + sum(output.dropped.values())
    # Rows whose gold is the abstention are learnt from, and have no label.
    named = sum(label.rows or 0 for label in output.labels)
    assert named == sum(example.record.gold != task.abstain_name for example in data.train)
    assert [label.name for label in output.labels] == [label.name for label in task.labels]
    assert (output.abstain, output.sha256, output.fingerprint) == (
        "not enough information",
        data.sha256,
        task.fingerprint,
    )
    assert output.metrics == {"accuracy": figure}
    assert output.baselines == {"TF-IDF": {"accuracy": figure}}
    assert output.split == (
        "about 10 % of the rows were set aside for validation, drawn by seed 0; equal texts and "
        "groups stay together, and so do near duplicates"
    )
    assert output.leaks == tuple(data.leakage.describe() if data.leakage else ("?",))


def test_a_label_without_rows_is_reported() -> None:
    task = medtask.load_task(EXAMPLE)
    data = build_training_data(task, medtask.read_table(EXAMPLE / "procedures.csv"))
    kept = tuple(example for example in data.train if example.record.gold != "staging")
    output = build_card_task(
        replace(data, train=kept, cleaning=None, leakage=None, split=None), {}, {}
    )
    assert CardLabel("staging", "finds out how far a proven cancer has spread", 0) in output.labels
    assert (output.split, output.leaks, output.dropped) == ("", (), {})
    assert output.rows == len(kept) + len(data.validation)


def test_a_validation_table_is_named() -> None:
    task = medtask.load_task(EXAMPLE)
    table = medtask.read_table(EXAMPLE / "procedures.csv")
    output = build_card_task(build_training_data(task, table, validation=table), {}, {})
    assert output.split.startswith("validation rows come from a separate table, procedures.csv, ")


def test_the_card_says_which_rows_are_for_training_only() -> None:
    task = medtask.load_task(EXAMPLE)
    rows = [
        dict(row) | {"gold_selection": "review" if number % 3 else "random"}
        for number, row in enumerate(medtask.read_table(EXAMPLE / "procedures.csv"))
    ]
    data = build_training_data(task, medtask.read_table(rows))
    assert "chosen by their answers, which are for training only" in (
        build_card_task(data, {}, {}).split
    )
