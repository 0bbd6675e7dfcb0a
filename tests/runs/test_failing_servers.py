"""Whole runs with a model server of which a fifth of the calls fail, or that is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from medtask.engines.http.engine import HttpEngine
from medtask.errors import EngineError
from medtask.records import Status
from medtask.runs.local_run import Run, run
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.fault_server import FaultRule, FaultScript, FaultServer
from support.http_engines import BRANCH_LABELS, EngineOpener
from support.skipping_clock import SkippingClock

ROWS = [{"case_id": f"c-{row}", "procedure": f"resection of part {row}"} for row in range(30)]
A_FIFTH_FAILS = [
    *(FaultRule("status", rate=0.04, status=status) for status in (500, 502, 503, 504)),
    FaultRule("reset", rate=0.04),
]


@pytest.fixture
def task(task_folder: Path) -> Task:
    path = task_folder / "task.yaml"
    kept = path.read_text().partition("  labels:")[0]
    path.write_text(f"{kept}  labels: [{', '.join(BRANCH_LABELS)}]\n")
    return load_task(path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HttpEngine, FaultServer]]:
    """An engine whose delays take no time, and its server."""
    clock = SkippingClock().make_clock()
    monkeypatch.setattr("medtask.engines.http.client.AsyncClock", lambda: clock)
    opener = EngineOpener(monkeypatch)
    yield opener("vllm")
    opener.close()


def read_answers(result: Run) -> pl.DataFrame:
    frame = pl.read_parquet(result.folder / "answers.parquet")
    return frame.select("case_id", "answer", "confidence", "status", "probabilities")


def test_a_run_in_which_a_fifth_of_the_calls_fail_has_the_same_answers(
    task: Task, served: tuple[HttpEngine, FaultServer], tmp_path: Path
) -> None:
    engine, server = served
    reference = run(task, engine, ROWS, out=tmp_path / "reference")
    server.log.clear()
    server.script = FaultScript(A_FIFTH_FAILS, seed=1)
    result = run(task, engine, ROWS, out=tmp_path / "failing")
    failed = sum(entry.fault is not None for entry in server.log)
    assert failed >= len(ROWS) / 10
    assert result.exit_code == 0
    assert Status.FAILED not in result.statuses
    assert read_answers(result).equals(read_answers(reference))


def test_a_run_whose_server_is_down_stops_and_the_same_command_finishes_it(
    task: Task, served: tuple[HttpEngine, FaultServer], tmp_path: Path
) -> None:
    engine, server = served
    reference = run(task, engine, ROWS, out=tmp_path / "reference")
    calls = len(server.log)
    server.log.clear()
    server.script = FaultScript([FaultRule("status", status=503, calls=range(20, 10**6))])
    with pytest.raises(EngineError, match="20 consecutive calls to the server failed") as caught:
        run(task, engine, ROWS, out=tmp_path / "stopped")
    assert caught.value.exit_code == 5
    server.log.clear()
    server.script = FaultScript()
    result = run(task, engine, ROWS, out=tmp_path / "stopped")
    assert 0 < len(server.log) < calls  # what was answered before is not asked again
    assert read_answers(result).equals(read_answers(reference))
