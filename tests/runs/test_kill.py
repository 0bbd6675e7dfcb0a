"""Runs in separate processes that are killed, interrupted or run out of disk space: nothing is
lost, nothing is asked twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.runs.ledger import FLUSH_SECONDS
from medtask.runs.local_run import run
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support import run_process
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table

BATCH = 16
Rows = Callable[[int], Path]
FORKSERVER = multiprocessing.get_context("forkserver")
# The server imports once what every process needs; polars stays out, because its threads would not
# survive the fork.
FORKSERVER.set_forkserver_preload(
    [
        "pytest",
        "scipy.stats",
        "medtask.evaluation.report.run_report",
        "medtask.runs.local_run",
        "medtask.tasks.load",
    ]
)


class RunProcess:
    """One run in its own process."""

    def __init__(self, process: BaseProcess, pipe: Any) -> None:
        self.process, self.pipe = process, pipe

    def receive(self) -> Any:
        """The next message of the process."""
        assert self.pipe.poll(300), "the process sent nothing"
        return self.pipe.recv()

    def wait(self) -> Any:
        """Wait until the process has ended and return its last message."""
        message = None
        try:
            while True:
                message = self.receive()
        except EOFError:
            self.process.join(300)
            return message

    def signal(self, number: int) -> None:
        """Send a signal. Does nothing if the process has ended."""
        assert self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


StartRun = Callable[..., RunProcess]


@pytest.fixture
def start_run(task_folder: Path, tmp_path: Path) -> Iterator[StartRun]:
    """Start a run of rows.csv into out/. The options are those of `run_in_process`."""
    started: list[RunProcess] = []

    def launch(folder: Path = task_folder, **options: object) -> RunProcess:
        own_end, process_end = FORKSERVER.Pipe()
        arguments = (process_end, str(folder), str(tmp_path / "rows.csv"), str(tmp_path / "out"))
        process = FORKSERVER.Process(
            target=run_process.run_in_process, args=arguments, kwargs=options
        )
        process.start()
        process_end.close()
        started.append(RunProcess(process, own_end))
        return started[-1]

    yield launch
    for one in started:
        one.process.kill()
        one.process.join()
        one.process.close()
        one.pipe.close()


def run_undisturbed(task: Task, rows: Path, folder: Path) -> Path:
    """The folder of an undisturbed run."""
    return run(
        task, FakeEngine(**run_process.FAULTY_RECORDS), rows, out=folder / "reference"
    ).folder


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_equal_runs(one: Path, other: Path) -> None:
    assert (one / "answers.csv").read_bytes() == (other / "answers.csv").read_bytes()
    assert pl.read_parquet(one / "answers.parquet").equals(
        pl.read_parquet(other / "answers.parquet")
    )


def kill_until_done(
    start: StartRun,
    rng: random.Random,
    kills: int,
    ms_per_row: float,
    max_wait_s: float,
    **options: object,
) -> None:
    """Kill runs at random moments, a fifth of them while they write their tables, and let the last
    one end.
    """
    done = 0
    for number in range(kills):
        one = start(ms_per_row=ms_per_row, **options)
        before, done = done, one.receive()
        assert done >= before
        if number % 5 == 4 and number > kills // 2:
            assert one.receive() == "all asked"
        time.sleep(rng.random() * max_wait_s)
        one.signal(signal.SIGKILL)
        one.process.join()
    last = start(**options)
    assert last.wait()["state"] == "finished"
    assert last.process.exitcode in (0, 3)


def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(
    task: Task, start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(2000)
    kill_until_done(start_run, random.Random(1), kills=4, ms_per_row=0.3, max_wait_s=0.15)
    assert_equal_runs(tmp_path / "out", run_undisturbed(task, rows, tmp_path))


@pytest.mark.parametrize("kind", sorted(ANSWER_SPECS))
def test_a_run_of_any_kind_killed_again_and_again_ends_like_an_undisturbed_one(
    kind: str, start_run: StartRun, tmp_path: Path
) -> None:
    folder, rows = write_task_and_table(kind, tmp_path, 300)
    kill_until_done(
        start_run, random.Random(kind), kills=3, ms_per_row=0.4, max_wait_s=0.25, folder=folder
    )
    assert_equal_runs(tmp_path / "out", run_undisturbed(load_task(folder), rows, tmp_path))


@pytest.mark.scale
def test_a_long_run_killed_two_hundred_times_ends_the_same_way(
    task: Task, start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(10_000)
    kill_until_done(start_run, random.Random(2), kills=200, ms_per_row=0.5, max_wait_s=0.1)
    assert_equal_runs(tmp_path / "out", run_undisturbed(task, rows, tmp_path))


def test_a_kill_loses_no_more_than_a_flush_and_a_batch(
    start_run: StartRun, write_rows: Rows
) -> None:
    write_rows(600)
    ms_per_row = 2
    one = start_run(tell_asked=True, ms_per_row=ms_per_row, flush_s=FLUSH_SECONDS)
    one.receive()
    while one.receive() < 300:
        pass
    one.signal(signal.SIGKILL)
    asked = one.wait() or 300
    second = start_run()
    kept = second.receive()
    assert kept >= asked - FLUSH_SECONDS * 1000 / ms_per_row - BATCH
    assert second.wait()["asked"] == 600 - kept


@pytest.mark.parametrize(
    ("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143), ("SIGUSR2", 143)]
)
def test_a_signal_ends_a_run_in_order_and_the_same_command_resumes(
    name: str, exit_code: int, task: Task, start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(300)
    one = start_run(tell_asked=True, ms_per_row=10)  # a batch takes 160 ms, the run three seconds
    one.receive()
    while one.receive() < 3 * BATCH:
        pass
    sent = time.monotonic()
    one.signal(getattr(signal, name))
    outcome = one.wait()
    assert time.monotonic() - sent < 30
    assert one.process.exitcode == exit_code
    assert outcome["state"] == "interrupted"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["state"] == "interrupted"
    assert not (tmp_path / "out" / "answers.csv").exists()
    second = start_run()
    assert second.receive() == outcome["asked"] > 0
    second.wait()
    assert_equal_runs(tmp_path / "out", run_undisturbed(task, rows, tmp_path))


def test_a_second_signal_ends_a_run_at_once(start_run: StartRun, write_rows: Rows) -> None:
    write_rows(50)
    one = start_run(stuck=True)  # what the first signal leads to would take a minute
    one.receive()
    assert one.receive() == "stuck"
    one.signal(signal.SIGINT)
    assert one.receive() == "stuck"
    one.signal(signal.SIGINT)
    one.process.join(45)  # less than the minute for which the commit is blocked
    assert one.process.exitcode == 130


def test_a_second_process_is_refused_and_disturbs_nothing(
    task: Task, start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(200)
    first = start_run(ms_per_row=5)
    first.receive()
    second = start_run()
    assert f"process {first.process.pid} on " in second.wait()
    assert second.process.exitcode == 6
    first.wait()
    assert first.process.exitcode == 0
    assert_equal_runs(tmp_path / "out", run_undisturbed(task, rows, tmp_path))


def test_a_full_disk_keeps_what_there_is_and_the_same_command_goes_on(
    task: Task, start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(1000)
    start_run(limit=50).wait()
    before = hash_file(tmp_path / "out" / "answers.csv")
    full = start_run(file_limit=60_000)
    full.receive()
    assert str(tmp_path / "out" / "ledger.db") in full.wait()
    assert full.process.exitcode == 7
    assert hash_file(tmp_path / "out" / "answers.csv") == before
    done = start_run()
    assert done.receive() >= 50
    done.wait()
    assert_equal_runs(tmp_path / "out", run_undisturbed(task, rows, tmp_path))


def test_a_disk_that_fills_while_answers_are_written_leaves_the_old_tables(
    start_run: StartRun, write_rows: Rows, tmp_path: Path
) -> None:
    write_rows(1000)
    start_run().wait()
    before = {
        name: hash_file(tmp_path / "out" / name)
        for name in ("answers.csv", "answers.parquet", "ledger.db")
    }
    full = start_run(file_limit=10_000)
    assert str(tmp_path / "out" / "answers.csv") in full.wait()
    assert full.process.exitcode == 7
    assert {name: hash_file(tmp_path / "out" / name) for name in before} == before


MEMORY_SCRIPT = """
import sys
from medtask.engines.fake import FakeEngine
from medtask.hardware import measure_peak_memory
from medtask.runs.local_run import run
from medtask.runs.progress import NullRunObserver
from medtask.tasks.load import load_task

class Observer(NullRunObserver):
    def on_finish(self):
        print(measure_peak_memory()["memory"])

_, task, table, out, limit = sys.argv
engine = FakeEngine(batch=256)
run(load_task(task), engine, table, out=out, limit=int(limit), progress=Observer())
print(measure_peak_memory()["memory"])
"""


@pytest.mark.scale
@pytest.mark.parametrize("limits", [(5_000, 20_000), (30_000, 120_000)])
def test_memory_does_not_grow_with_rows(
    limits: tuple[int, int], task_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w") as stream:
        stream.write("case_id,procedure\n")
        stream.writelines(
            f"c-{row},resection of the colon {row} with {row % 7} nodes\n"
            for row in range(limits[1])
        )
    peaks = []
    for limit in limits:
        out = tmp_path / f"out-{limit}"
        command = [sys.executable, "-c", MEMORY_SCRIPT, task_folder, path, out, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append([int(line) / 10**6 for line in done.stdout.splitlines()])
    (few_answers, few_tables), (many_answers, many_tables) = peaks
    assert many_answers - few_answers < 5, f"while rows are answered: {peaks} MB"
    assert many_tables - few_tables < 40, f"with tables and report: {peaks} MB"
