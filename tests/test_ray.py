"""Ray on this machine: two actors, one of which is killed in the middle; the answers are those of
one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import UsageError
from medtask.scaling.ray_workers import RayWorkers
from medtask.tasks.load import load_task
from support.recording_engine import (
    kill_once,
    read_asked,
    read_killed,
    read_loads,
    write_recording_engine,
)
from support.tasks_by_kind import write_task_and_table

ROWS = 240
# One Ray for both: it takes most of the time to start it.
SCRIPT = """
import json, os, sys
from pathlib import Path
import ray
import medtask, medtask.ray
from medtask.ray import RayWorkers

folder = Path(sys.argv[1])
for attempt in range(4):  # a busy machine may not start Ray within its limit of 30 seconds
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        break
    except Exception:
        if attempt == 3:
            raise
        ray.shutdown()
workers = RayWorkers(2)

task = medtask.load_task(folder / "task")
def start_run():
    return medtask.ray.run(
        task, f"recording:{folder}/shards", folder / "rows.csv", workers=workers, shards=6,
        out=folder / "run",
    )
first = start_run()
asked = (folder / "shards/asked").read_text()
again = start_run()

ds = ray.data.read_csv(str(folder / "rows.csv"))
answers = medtask.ray.predict(
    ds, task, f"recording:{folder}/data", workers=workers, batch_rows=20
)
answers.write_parquet(str(folder / "parquet"))

error_of_run = None
try:
    medtask.ray.run(task, "fake:fails_after=2", folder / "rows.csv", shards=2, out=folder / "bad")
except medtask.MedtaskError as error:
    error_of_run = f"{type(error).__name__}: {error.fix}"
from ray._common.usage import usage_lib
usage = usage_lib.usage_stats_enabled()
(folder / "found.json").write_text(json.dumps({
    "statuses": first.statuses, "error": error_of_run, "usage": usage,
    "asked_again": (folder / "shards/asked").read_text() != asked,
    "state": again.state,
}))
ray.shutdown()
"""


@dataclass(frozen=True)
class RayJobs:
    folder: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> RayJobs:
    pytest.importorskip("ray", reason="pip install 'medtask[ray]'")
    folder = tmp_path_factory.mktemp("ray")
    write_recording_engine(folder / "site")
    write_task_and_table("labels", folder, ROWS)
    for name in ("shards", "data"):
        (folder / name).mkdir()
        kill_once(folder / name, ROWS // 3)
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "RAY_enable_worker_prestart": "0",
            "RAY_worker_niceness": "0",
            "RAY_worker_register_timeout_seconds": "300",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # In a file: Ray writes to standard output too.
    return RayJobs(folder, json.loads((folder / "found.json").read_text()))


@pytest.fixture(scope="module")
def single(jobs: RayJobs) -> Path:
    """The run folder of one process."""
    task = load_task(jobs.folder / "task")
    out = jobs.folder / "single"
    return medtask.run(task, FakeEngine(seed=3), jobs.folder / "rows.csv", out=out).folder


@pytest.mark.scale
def test_a_run_on_ray_is_the_run_of_one_process(jobs: RayJobs, single: Path) -> None:
    found = jobs.folder / "run" / "answers.csv"
    assert found.read_bytes() == (single / "answers.csv").read_bytes()
    assert (jobs.folder / "run" / "report.html").exists()


@pytest.mark.scale
def test_the_rows_of_a_killed_actor_are_asked_again_and_no_others(jobs: RayJobs) -> None:
    killed = read_killed(jobs.folder / "shards")
    assert killed is not None
    asked = read_asked(jobs.folder / "shards")
    lost = {name for process, name in asked if process == killed}
    others = [name for process, name in asked if process != killed]
    assert len(others) == len(set(others))
    assert {name for name in others if name in lost}
    assert len({process for process, _ in read_loads(jobs.folder / "shards")}) == 3


@pytest.mark.scale
def test_the_same_call_again_asks_nothing(jobs: RayJobs) -> None:
    assert jobs.found["state"] == "finished"
    assert not jobs.found["asked_again"]


@pytest.mark.scale
def test_a_dataset_has_the_answers_and_types_of_a_run(jobs: RayJobs, single: Path) -> None:
    found = pl.read_parquet(jobs.folder / "parquet" / "*.parquet").sort("case")
    expected = pl.read_parquet(single / "answers.parquet").sort("case")
    assert found.columns == expected.columns
    for name in ("case", "answer", "confidence", "status", "reason", "pass", "probabilities"):
        assert found[name].equals(expected[name]), name
    assert read_killed(jobs.folder / "data") is not None
    assert {"ok", "empty_input"} <= set(found["status"])


@pytest.mark.scale
def test_the_error_of_a_model_arrives_with_its_type_and_its_remedy(jobs: RayJobs) -> None:
    assert jobs.found["error"].startswith("EngineError: run the same command again")


@pytest.mark.scale
def test_ray_reports_no_usage(jobs: RayJobs) -> None:
    assert jobs.found["usage"] is False


@pytest.mark.parametrize("count", [0, (2, 1), (0, 3)])
def test_numbers_of_workers_are_checked(count: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="not valid"):
        RayWorkers(count)


def test_one_core_is_left_for_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'medtask[ray]'")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    for workers, expected in ((RayWorkers(8), 7 / 8), (RayWorkers(2, 4), 3.5), (RayWorkers(4), 1)):
        assert workers.to_arguments()["num_cpus"] == expected
    # The cluster may grow.
    assert RayWorkers(16).to_arguments()["num_cpus"] == 1
