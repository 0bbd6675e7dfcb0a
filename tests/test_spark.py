"""`medtask.spark.predict` on a real Spark: two Python workers, one of which is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.tasks.load import load_task
from support.recording_engine import (
    kill_once,
    read_asked,
    read_killed,
    read_loads,
    write_recording_engine,
)
from support.tasks_by_kind import write_task_and_table

pytestmark = pytest.mark.slow
ROWS = 240

# Three jobs in one session: one in which a worker is killed, one that finds the model loaded, and
# one of another kind, whose answers are nested.
SCRIPT = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession
import medtask, medtask.spark

folder = Path(sys.argv[1])
settings = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "25",
}
spark = SparkSession.builder.master("local[2,4]").config(map=settings).getOrCreate()
rows = spark.read.csv(f"{folder}/rows.csv", header=True, escape='"').repartition(4)
model = f"recording:{folder}"

answers = medtask.spark.predict(rows, folder / "task", model)
answers.write.parquet(f"{folder}/killed_once")
answers.write.parquet(f"{folder}/again")

fields = medtask.spark.predict(rows, medtask.load_task(folder / "fields/task"), "fake:seed=3")
fields.write.parquet(f"{folder}/nested")

errors = {}
try:
    medtask.spark.predict(rows.drop("text"), folder / "task", model)
except medtask.MedtaskError as error:
    errors["driver"] = str(error)
print(json.dumps(errors))
spark.stop()
"""


@dataclass(frozen=True)
class SparkJobs:
    folder: Path
    errors: dict[str, str]

    def read(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / name / "*.parquet").sort("case")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> SparkJobs:
    pytest.importorskip("pyspark", reason="pip install 'medtask[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    folder = tmp_path_factory.mktemp("spark")
    write_recording_engine(folder / "site")
    write_task_and_table("labels", folder, ROWS)
    (folder / "fields").mkdir()
    write_task_and_table("fields", folder / "fields", ROWS)
    kill_once(folder, ROWS // 3)
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(paths),
            "SPARK_LOCAL_IP": "127.0.0.1",
            # Most of the time is that of the compiler, for code that runs once.
            "PYSPARK_SUBMIT_ARGS": "--driver-java-options -XX:TieredStopAtLevel=1 pyspark-shell",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return SparkJobs(folder, json.loads(done.stdout.splitlines()[-1]))


def predict_rows(jobs: SparkJobs, task: str) -> list[Any]:
    rows = sorted(medtask.read_table(jobs.folder / "rows.csv"), key=lambda row: str(row["case"]))
    return list(medtask.predict(load_task(jobs.folder / task), FakeEngine(seed=3), rows))


@pytest.mark.parametrize("name", ["killed_once", "again"])
def test_answers_are_those_of_one_process(jobs: SparkJobs, name: str) -> None:
    table, expected = jobs.read(name), predict_rows(jobs, "task")
    assert table["case"].to_list() == [one.record_id for one in expected]
    assert table["answer"].to_list() == [
        None if one.value is None else list(one.value) for one in expected
    ]
    for column in ("status", "reason", "confidence"):
        assert table[column].to_list() == [getattr(one, column) for one in expected], column
    found = [cell and cell["heart"] for cell in table["probabilities"].to_list()]
    assert found == [one.probabilities and one.probabilities["heart"] for one in expected]
    assert {"ok", "empty_input"} <= set(table["status"])


def test_the_columns_are_those_of_a_run(jobs: SparkJobs, tmp_path: Path) -> None:
    for task, name in (("task", "again"), ("fields/task", "nested")):
        run = medtask.run(
            load_task(jobs.folder / task),
            FakeEngine(seed=3),
            jobs.folder / "rows.csv",
            out=tmp_path / name,
        )
        in_run, found = pl.read_parquet_schema(run.folder / "answers.parquet"), jobs.read(name)
        assert found.schema == in_run
        in_table = pl.read_parquet(run.folder / "answers.parquet").sort("case")
        assert found["answer"].equals(in_table["answer"])


def test_rows_of_a_killed_worker_are_asked_again(jobs: SparkJobs) -> None:
    killed = read_killed(jobs.folder)
    assert killed is not None
    asked = read_asked(jobs.folder)
    lost = {name for process, name in asked if process == killed}
    assert lost & {name for process, name in asked if process != killed}


def test_each_worker_loads_the_model_once_with_the_cores_of_its_task(jobs: SparkJobs) -> None:
    loads = read_loads(jobs.folder)
    processes = [process for process, _ in loads]
    assert len(processes) == len(set(processes))
    assert len(processes) <= 4  # two, and those that replace the killed one
    assert {threads for _, threads in loads} == {"1"}


def test_a_missing_column_is_reported_before_workers_start(jobs: SparkJobs) -> None:
    assert "input uses {{ text }}, but the table has case" in jobs.errors["driver"]
