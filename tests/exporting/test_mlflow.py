"""MLflow models: a fresh process without the task's file gives the answers of medtask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow loads the written models")

import medtask
from medtask.errors import UsageError
from medtask.exporting.export import export, verify_export
from medtask.tasks.task import Task
from medtask.training.trained_model import TrainedModel
from support.keyword_engine import WORDS, KeywordEngine, write_operations

DONT_WRITE_BYTECODE = "PYTHONDONTWRITEBYTECODE"
LOAD_SCRIPT = """
import json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
frame = pandas.DataFrame({"text": json.loads(sys.argv[2])}, index=[5, 7, 9])
print(model.predict(frame).to_json(orient="split"))
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("purpose")
    (folder / "task.yaml").write_text(
        "name: purpose\ninstruction: Decide the purpose.\ninput: '{{ text }}'\ngold: purpose\n"
        f"answer: {{kind: label, labels: [{', '.join(WORDS)}]}}\n"
    )
    return medtask.load_task(folder)


def make_rows() -> list[dict[str, str]]:
    engine = KeywordEngine()
    return [{"text": text, "purpose": engine.choose_label(text)} for text in write_operations(120)]


@pytest.fixture(scope="module")
def model(task: Task, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return medtask.train(
        task, make_rows(), method="linear", out=tmp_path_factory.mktemp("m") / "linear"
    )


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_answers(
    task: Task, model: TrainedModel, tmp_path: Path
) -> None:
    done = export(model, to="mlflow", out=tmp_path / "model", rows=8)
    assert done.parity is not None
    assert not list(done.path.rglob("*.pkl"))
    texts = ["bypass of the colon 1", "biopsy of the liver 2", "open removal 3"]
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_SCRIPT, str(done.path), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
        # As Python does by default: bytecode is kept.
        env={name: value for name, value in os.environ.items() if name != DONT_WRITE_BYTECODE},
    )
    assert verify_export(done.path) == []  # loading it has written nothing into the folder
    found = json.loads(loaded.stdout)
    engine = medtask.load_model(str(model.path))
    expected = [
        [answer.value, answer.confidence, str(answer.status)]
        for answer in medtask.predict(task, engine, [{"text": text} for text in texts])
    ]
    assert [row[:3] for row in found["data"]] == [
        [value, pytest.approx(confidence), status] for value, confidence, status in expected
    ]
    assert (found["columns"], found["index"]) == (
        ["answer", "confidence", "status", "reason"],
        [5, 7, 9],
    )


@pytest.mark.slow
def test_a_hybrid_is_exported_with_its_members(
    task: Task, model: TrainedModel, tmp_path: Path
) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc", reason="MLflow loads the written models")
    import pandas as pd

    other = Path(shutil.copytree(model.path, tmp_path / "linear"))
    base = [str(model.path), str(other)]
    trained = medtask.train(task, make_rows(), method="hybrid", base=base, out=tmp_path / "hybrid")
    rows = [{"text": "bypass of the colon 1"}, {"text": "biopsy of the liver 2"}]
    with closing(medtask.load_model(str(trained.path))) as engine:
        expected = [answer.value for answer in medtask.predict(task, engine, rows)]
    done = export(trained, to="mlflow", out=tmp_path / "model", rows=4)
    shutil.rmtree(other)
    assert str(tmp_path) not in (done.path / "artifacts/model/hybrid.json").read_text()
    answers = pyfunc.load_model(str(done.path)).predict(pd.DataFrame(rows))
    assert answers["answer"].tolist() == expected


@pytest.mark.slow
def test_the_model_is_registered_by_name(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = export(model, to="mlflow", out=tmp_path / "model", rows=4, register="purpose")
    assert done.notes == ("registered as models:/purpose/1",)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_model_version("purpose", "1").source == done.path.resolve().as_uri()


def test_a_task_with_examples_is_refused(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "instruction: Decide.\ninput: '{{ text }}'\nanswer: {kind: label, labels: [a, b]}\n"
        "examples: [{text: one, answer: a}]\n"
    )
    task = medtask.load_task(tmp_path)
    with pytest.raises(UsageError, match="examples"):
        export(
            model,
            to="mlflow",
            out=tmp_path / "model",
            task=task,
            table=[{"text": "two"}],
            check=False,
        )
