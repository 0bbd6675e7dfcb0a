"""Runs on a real Slurm: a cluster of one node, started here."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.engines.base import Engine
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, InputError, UsageError
from medtask.runs.local_run import run
from medtask.scaling.run_status import RunStatus
from medtask.scaling.submit import SubmittedRun
from scaling.conftest import write_rows
from support.recording_engine import read_asked, set_pace, write_recording_engine
from support.slurm_cluster import SlurmCluster, has_slurm, start_cluster, wait_for
from support.tiny_models import save_model

needs_slurm = pytest.mark.skipif(not has_slurm(), reason="slurm-wlm and munge are not installed")
Submit = Callable[..., SubmittedRun]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with start_cluster() as running:
        yield running


@pytest.fixture
def on_cluster(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.parquet", 80)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def submit(task_folder: Path, rows: Path, out: Path) -> Submit:
    """Submit the task over the rows, in 4 shards."""

    def submit_run(model: str = "fake:", **options: Any) -> SubmittedRun:
        settings = {"shards": 4, "slurm": medtask.SlurmOptions(partition="main")} | options
        task = medtask.load_task(task_folder)
        return medtask.submit(task, rows, out=out, model=model, **settings)

    return submit_run


def read_single(task_folder: Path, rows: Path, model: Engine) -> bytes:
    """The answers of a run in one process."""
    task = medtask.load_task(task_folder)
    single = run(task, model, rows, out=rows.parent / "single", baselines=False)
    return read_bytes(single.folder)


def read_bytes(folder: Path) -> bytes:
    return (folder / "answers.csv").read_bytes()


def describe(status: RunStatus) -> list[tuple[str, int, str]]:
    return [(one.state, one.done, one.reason) for one in status.shards]


@needs_slurm
@pytest.mark.scale
def test_an_array_of_jobs_and_its_merge_give_the_bytes_of_a_single_run(
    task_folder: Path, rows: Path, out: Path, submit: Submit, on_cluster: SlurmCluster
) -> None:
    model = str(save_model(rows.parent / "model", "llama"))
    submitted = submit(model, dtype="float32", threads=1)
    assert submitted.shards == (1, 2, 3, 4)
    assert submitted.job and submitted.merge_job
    again = submit(model, dtype="float32", threads=1)
    assert again.shards == () and "in the queue" in again.notes[0]
    wait_for(lambda: medtask.status(out).merged, "the dependent job has merged", 180)
    assert [one.state for one in medtask.status(out).shards] == ["finished"] * 4
    loaded = medtask.load_model(model, dtype="float32")
    assert read_bytes(out) == read_single(task_folder, rows, loaded)


@needs_slurm
@pytest.mark.scale
@pytest.mark.slow
def test_a_time_limit_and_a_kill_lose_nothing(
    task_folder: Path,
    rows: Path,
    out: Path,
    submit: Submit,
    on_cluster: SlurmCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards are slow until the first one has been stopped by its limit; the second is killed."""
    site = rows.parent / "site"
    write_recording_engine(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    set_pace(site, 2.0)
    # Slurm looks at limits every 30 seconds: it stops a shard 5 to 35 seconds after its start.
    limit = medtask.SlurmOptions(partition="main", time="1", stop_seconds=25)
    submit(f"recording:{site}", shards=2, slurm=limit, merge=False)
    first, second = (out / "shards" / number for number in ("0001", "0002"))
    wait_for(lambda: _count_rows(second) > 2, "shard 2 has answers", 60)
    # On a busy machine its limit may have stopped it by now: then it is killed when it goes on.
    killed = wait_for(lambda: _find_process(second), "shard 2 runs", 60)
    os.kill(killed, signal.SIGKILL)
    wait_for(
        lambda: "interrupted" in _read_states(first) and _count_rows(first) > 2,
        "shard 1 was stopped by its limit",
        120,
    )
    set_pace(site, 0.0)
    wait_for(
        lambda: all(one.state == "finished" for one in medtask.status(out).shards),
        "all shards are complete",
        120,
    )
    assert _read_states(first)[0] == "interrupted"
    assert "running" in _read_states(second)  # killed: it could not write its end
    kept = [name for process, name in read_asked(site) if process != killed]
    # No row is asked twice, but for the one that was asked at the moment of a stop.
    repeated = len(kept) - len(set(kept))
    assert repeated <= [*_read_states(first), *_read_states(second)].count("interrupted")
    medtask.merge(out)
    assert read_bytes(out) == read_single(task_folder, rows, FakeEngine(seed=3))


def _count_rows(folder: Path) -> int:
    if not (folder / "manifest.json").exists():
        return 0
    with closing(sqlite3.connect(folder / "ledger.db")) as db, suppress(sqlite3.OperationalError):
        return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])
    return 0


def _find_process(folder: Path) -> int:
    """The process that answers a shard's rows; 0 while none does."""
    lock = (folder / ".lock").read_text()
    return int(json.loads(lock)["pid"]) if lock else 0


def _read_states(folder: Path) -> list[str]:
    """How the attempts of a shard have ended."""
    file = folder / ".attempts.json"
    return (
        [one["state"] for one in json.loads(file.read_text())["attempts"]] if file.exists() else []
    )


@needs_slurm
@pytest.mark.slow
def test_a_cancelled_job_is_not_put_back_and_can_be_submitted_again(
    out: Path, submit: Submit, on_cluster: SlurmCluster
) -> None:
    def submit_slow() -> SubmittedRun:
        return submit("fake:ms_per_row=2000,batch=1", shards=1, merge=False)

    submitted = submit_slow()
    wait_for(lambda: describe(medtask.status(out))[0][0] == "running", "the shard runs")
    on_cluster.call("scancel", submitted.job)
    wait_for(lambda: not on_cluster.call("squeue", "-h").strip(), "the job ends")
    (shard,) = medtask.status(out).shards
    assert shard.state == "interrupted"
    with pytest.raises(InputError, match=r"1 \(interrupted\)"):
        medtask.merge(out)
    assert submit_slow().shards == (1,)


@needs_slurm
@pytest.mark.slow
def test_a_job_that_never_starts_is_shown_with_the_reason_of_slurm(
    out: Path, submit: Submit, on_cluster: SlurmCluster
) -> None:
    submit(slurm=medtask.SlurmOptions(partition="closed"), merge=False)
    found = describe(medtask.status(out))
    assert {state for state, _, _ in found} == {"waiting"}
    assert all(reason.startswith("in Slurm's queue: Partition") for _, _, reason in found)
    with pytest.raises(InputError, match=r"4 of 4 shards .* in Slurm's queue: Partition"):
        medtask.merge(out)


@needs_slurm
@pytest.mark.slow
def test_what_slurm_refuses_is_reported_with_its_words(
    submit: Submit, on_cluster: SlurmCluster
) -> None:
    with pytest.raises(EngineError, match=r"Slurm refused the job: .*invalid partition"):
        submit(slurm=medtask.SlurmOptions(partition="nowhere"))


def test_without_slurm_the_script_can_still_be_seen(
    out: Path, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(out.parent))
    dry = submit(dry_run=True)
    assert "#SBATCH --array=1-4\n" in dry.script
    assert not out.exists()
    with pytest.raises(UsageError, match="sbatch is not found") as refused:
        submit()
    assert "--dry-run" in refused.value.fix
