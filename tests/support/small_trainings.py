"""Small trainings without a command: a task, its training data, and a training context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.records import Prompt
from medtask.runs.signals import SignalState
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task
from medtask.training.training_context import TrainingContext
from medtask.training.training_data import TrainingData, TrainingExample
from medtask.training.training_log import NullTrainingObserver, TrainingLog, TrainingObserver

PARTS = ("knee", "wrist", "brain")
TAGS = ("knee", "wrist", "fall")
# The text names the part, and nothing else depends on it.
TEXTS = [
    f"{way} of the {side} {part}{after}"
    for part in PARTS
    for way in ("MRI", "CT")
    for side in ("left", "right")
    for after in ("", " after a fall", ", naïve", " again", " #5 😀")
]
NEW_TEXTS = [
    "CT of the knee",
    "a fall on the right wrist and the knee",
    "nothing of it at all",
    "ÉCRAN",
]


def make_task(
    folder: Path, kind: str = "label", labels: Sequence[str] = PARTS, **more: Any
) -> Task:
    """A task over the columns text and gold."""
    answer = {
        "kind": kind,
        **({"labels": list(labels)} if kind in {"label", "labels"} else {}),
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "parts",
        "instruction": "Decide.",
        "input": "{{ text }}",
        "gold": "gold",
        "answer": answer,
    }
    (folder / "task.json").write_text(json.dumps(content))
    return medtask.load_task(folder)


def make_training_examples(
    task: Task, rows: Sequence[Mapping[str, object]]
) -> tuple[TrainingExample, ...]:
    training_examples = []
    for number, record in enumerate(read_records(task, rows), 1):
        prompt = build_prompt(task, record)
        assert isinstance(prompt, Prompt)
        training_examples.append(TrainingExample(number, record, prompt))
    return tuple(training_examples)


def make_rows(texts: Sequence[str] = TEXTS, kind: str = "label") -> list[dict[str, object]]:
    names = PARTS if kind == "label" else TAGS
    gold = [[name for name in names if name in text] for text in texts]
    return [
        {"text": text, "gold": result if kind == "labels" else result[0]}
        for text, result in zip(texts, gold, strict=True)
    ]


def make_training_data(
    task: Task, rows: Sequence[Mapping[str, object]] | None = None, *, every: int = 5
) -> TrainingData:
    """Every fifth row is for validation."""
    examples = make_training_examples(task, make_rows(kind=task.kind) if rows is None else rows)
    validation = examples[every - 1 :: every]
    return TrainingData(
        task, tuple(example for example in examples if example not in validation), validation
    )


@contextmanager
def use_default_settings() -> Iterator[None]:
    """Linear models have the default settings, without the search for better ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medtask.training.linear.search_settings", lambda *_: iter(()))
        yield


def predict_with_draft(task: Task, folder: Path, texts: Sequence[str]) -> list[medtask.Answer]:
    """The answers of the model in a draft folder."""
    return list(
        medtask.predict(
            task, medtask.load_model(str(folder / "draft")), [{"text": text} for text in texts]
        )
    )


def make_training_context(
    folder: Path, observer: TrainingObserver | None = None, signals: SignalState | None = None
) -> TrainingContext:
    observer = observer or NullTrainingObserver()
    for name in ("draft", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return TrainingContext(
        folder / "draft",
        folder / "work",
        TrainingLog(folder / "loss.csv", observer),
        observer,
        signals or SignalState(),
    )
