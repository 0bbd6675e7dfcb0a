"""The whole way of a trained model: base, adapter, merged weights, q4_k_m, and each place where it
answers, with the adapter's labels on the same table.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama.cpp quantises and reads the written files")

import medtask
from medtask.engines.base import Engine
from medtask.engines.files.model_files import find_built_in_model
from medtask.exporting.export import ExportedModel, export
from medtask.tasks.task import Task
from support.model_servers import (
    LLAMA_SERVER_PACKAGES,
    find_missing_packages,
    run_llama_server,
)
from support.small_trainings import make_rows, make_task

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(find_built_in_model() is None, reason="the built-in model is not installed"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
]
ROWS = make_rows()[::3]
# Rows with each label for fresh processes, in which the model takes seconds to load.
FEW = slice(None, None, 4)


@dataclass(frozen=True)
class Trained:
    """A task, a LoRA adapter for it on the built-in model, and the adapter's answers to `ROWS`."""

    task: Task
    adapter: Path
    labels: list[str | None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trip")
    task = make_task(folder / "task")
    model = medtask.train(
        task,
        make_rows(),
        method="lora",
        base="smollm2-135m",
        out=folder / "adapter",
        epochs=3,
        batch=8,
        rank=4,
        alpha=8.0,
        rate=1e-3,
    )
    with closing(medtask.load_model(str(model.path), dtype="float32")) as engine:
        labels = ask(task, engine)
    assert labels == [row["gold"] for row in ROWS]  # otherwise equal labels would mean little
    return Trained(task, model.path, labels)


@pytest.fixture(scope="module")
def gguf(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    folder = tmp_path_factory.mktemp("gguf")
    # Labels are compared with those of the adapter: a wrong merge changes them.
    merged = export(trained.adapter, to="merged", out=folder / "merged", check=False)
    return export(
        merged.path,
        to="gguf",
        quant="q4_k_m",
        out=folder / "model.gguf",
        task=trained.task,
        table=ROWS,
    )


@pytest.fixture(scope="module")
def pyfunc(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlflow", reason="MLflow loads the written models")
    out = tmp_path_factory.mktemp("mlflow") / "model"
    return export(trained.adapter, to="mlflow", out=out, check=False).path


def ask(task: Task, engine: Engine) -> list[str | None]:
    rows = [{"text": row["text"]} for row in ROWS]
    return [answer.value for answer in medtask.predict(task, engine, rows)]  # type: ignore[misc]


def test_the_quantised_model_passes_the_gate(gguf: ExportedModel) -> None:
    assert gguf.parity is not None
    assert gguf.parity.passed
    assert gguf.manifest.quantization == "q4_k_m"


def test_llama_cpp_gives_the_labels_of_the_adapter(trained: Trained, gguf: ExportedModel) -> None:
    with closing(medtask.load_model(str(gguf.path), dtype="file")) as engine:
        assert ask(trained.task, engine) == trained.labels


@pytest.fixture
def server(gguf: ExportedModel) -> Iterator[Engine]:
    if missing := find_missing_packages(LLAMA_SERVER_PACKAGES):
        pytest.skip(f"the server needs packages that are not installed: {', '.join(missing)}")
    with (
        run_llama_server(gguf.path) as reference,
        closing(medtask.load_model(reference)) as engine,
    ):
        yield engine


def test_a_server_gives_the_labels_of_the_adapter(trained: Trained, server: Engine) -> None:
    assert ask(trained.task, server) == trained.labels


PANDAS_SCRIPT = """
import json, sys
import mlflow.pyfunc, pandas
frame = pandas.DataFrame({"text": json.loads(sys.argv[2])})
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict(frame)["answer"].tolist()))
"""
SPARK_SCRIPT = """
import json, sys
import mlflow.pyfunc
from pyspark.sql import SparkSession
settings = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
}
spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
rows = list(enumerate(json.loads(sys.argv[2])))
frame = spark.createDataFrame(rows, "number int, text string").coalesce(1)
answer = mlflow.pyfunc.spark_udf(spark, sys.argv[1], env_manager="local")
found = frame.withColumn("found", answer("text")).orderBy("number").collect()
print(json.dumps([row.found.answer for row in found]))
spark.stop()
"""


def run_script(script: str, model: Path) -> Sequence[str]:
    """What a script that knows only the folder prints in a fresh process."""
    texts = json.dumps([row["text"] for row in ROWS[FEW]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(model), texts],
        capture_output=True,
        text=True,
        env=os.environ | {"PYSPARK_PYTHON": sys.executable},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_a_fresh_process_with_pandas_gives_the_labels_of_the_adapter(
    trained: Trained, pyfunc: Path
) -> None:
    assert run_script(PANDAS_SCRIPT, pyfunc) == trained.labels[FEW]


def test_spark_gives_the_labels_of_the_adapter(trained: Trained, pyfunc: Path) -> None:
    pytest.importorskip("pyspark", reason="Spark calls the function of MLflow")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    assert run_script(SPARK_SCRIPT, pyfunc) == trained.labels[FEW]
