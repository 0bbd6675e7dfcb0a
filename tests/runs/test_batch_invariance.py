"""A real model gives a row the same answer whatever its place, its batch and its shard."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Answer, Record
from medtask.runs.predictions import predict
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.tiny_models import save_model

ROWS = 500
SHARDS = 8
WORDS = [
    "CT",
    "Brain",
    "MRI",
    "knee",
    "wrist",
    "liver",
    "headache",
    "after",
    "a",
    "fall",
    "pain",
    "eye",
    "ear",
    "nose",
    "mouth",
]
TASK = """\
instruction: Choose exactly one of these labels.
input: "{{ text }}"
id: id
answer: {kind: label, labels: [CT Brain, CT Brain/Neck angiography, MRI knee, MRI knee joint]}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    path = tmp_path_factory.mktemp("task") / "task.yaml"
    path.write_text(TASK)
    return load_task(path)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HfEngine]:
    folder = save_model(tmp_path_factory.mktemp("models") / "llama", "llama")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models spend their time in handing work to threads
    engine = load_hf(str(folder), LoadOptions(dtype="float32", device="cpu"))
    yield engine
    engine.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    draw = random.Random(25)
    return [
        Record(str(row), {"text": " ".join(draw.choices(WORDS, k=1 + row % 12)), "id": str(row)})
        for row in range(ROWS)
    ]


@pytest.fixture(scope="module")
def expected(task: Task, engine: HfEngine, records: list[Record]) -> dict[str, Answer]:
    return ask(task, engine, records)


def ask(task: Task, engine: HfEngine, records: Sequence[Record]) -> dict[str, Answer]:
    return {answer.record_id: answer for answer in predict(task, engine, records)}


def assert_same_answers(expected: Mapping[str, Answer], found: Mapping[str, Answer]) -> None:
    assert found.keys() == expected.keys()
    assert len({answer.value for answer in expected.values()}) > 2, "the rows are too much alike"
    differences = []
    for name, answer in expected.items():
        assert found[name].value == answer.value is not None
        one, other = (item.probabilities or {} for item in (answer, found[name]))
        differences += [abs(np.log(one[label]) - np.log(other[label])) for label in one]
    assert max(differences) <= 1e-4


@pytest.mark.parametrize("rows_per_batch", [1, 2, 8, 32])
def test_neither_order_nor_batch_size_changes_an_answer(
    task: Task,
    engine: HfEngine,
    records: list[Record],
    expected: dict[str, Answer],
    rows_per_batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "max_sequences", rows_per_batch)
    shuffled = random.Random(rows_per_batch).sample(records, ROWS)
    assert_same_answers(expected, ask(task, engine, shuffled))


def test_shards_change_no_answer(
    task: Task, engine: HfEngine, records: list[Record], expected: dict[str, Answer]
) -> None:
    found: dict[str, Answer] = {}
    for shard in range(SHARDS):
        engine.runner.clear_prefix()
        found |= ask(task, engine, records[shard::SHARDS])
    assert_same_answers(expected, found)
