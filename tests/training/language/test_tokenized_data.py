"""The rows that a language model learns from, and those that decide when it stops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import medtask
from medtask.training.language import tokenized_data
from medtask.training.language.tokenized_data import tokenize_training_data
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingExample, build_training_data
from support.small_trainings import make_task


def test_losses_are_measured_on_a_sample_and_not_on_the_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenize(task: Any, chat: Any, rows: Sequence[TrainingExample]) -> list[Any]:
        return [SimpleNamespace(max_length=5) for _ in rows]

    monkeypatch.setattr(tokenized_data, "tokenize_examples", tokenize)
    task = make_task(tmp_path)
    labels = [label.name for label in task.labels]
    train, validation = (
        [
            {"text": f"{name} number {number}", "gold": labels[number * 2 // count]}
            for number in range(count)
        ]
        for name, count in (("request", 20), ("other", 800))
    )
    data = build_training_data(
        task, medtask.read_table(train), validation=medtask.read_table(validation)
    )
    engine: Any = SimpleNamespace(chat=None, max_input_tokens=100)

    found = tokenize_training_data([data], engine, Recipe())

    measured = [example.record.gold for example in found.validation[0]]
    assert len(measured) == 400
    assert 120 < measured.count(labels[0]) < 280
