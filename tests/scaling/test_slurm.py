"""Runs on a real Slurm: a cluster of one node, started here."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import medtask
from medtask.errors import EngineError, InputError, UsageError
from medtask.runs.local_run import run
from medtask.scaling.run_status import RunStatus
from medtask.scaling.submit import SubmittedRun
from scaling.conftest import write_rows
from support.slurm_cluster import SlurmCluster, has_slurm, start_cluster, wait_for
from support.tiny_models import save_model

needs_slurm = pytest.mark.skipif(not has_slurm(), reason="slurm-wlm and munge are not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with start_cluster() as running:
        yield running


@pytest.fixture
def on_cluster(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def submit(task_folder: Path, rows: Path, out: Path, **options: object) -> SubmittedRun:
    settings = {"shards": 4, "slurm": medtask.SlurmOptions(partition="main")} | options
    return medtask.submit(medtask.load_task(task_folder), rows, out=out, **settings)  # type: ignore[arg-type]


def read_bytes(folder: Path) -> bytes:
    return (folder / "answers.csv").read_bytes()


def describe(status: RunStatus) -> list[tuple[str, int, str]]:
    return [(one.state, one.done, one.reason) for one in status.shards]


@needs_slurm
@pytest.mark.slow
def test_an_array_of_jobs_and_its_merge_give_the_bytes_of_a_single_run(
    task_folder: Path, tmp_path: Path, on_cluster: SlurmCluster
) -> None:
    rows = write_rows(tmp_path / "rows.parquet", 80)
    model = str(save_model(tmp_path / "model", "llama"))
    out = tmp_path / "run"
    submitted = submit(task_folder, rows, out, model=model, dtype="float32", threads=1)
    assert submitted.shards == (1, 2, 3, 4)
    assert submitted.job and submitted.merge_job
    again = submit(task_folder, rows, out, model=model, dtype="float32", threads=1)
    assert again.shards == () and "in the queue" in again.notes[0]
    wait_for(lambda: medtask.status(out).merged, "the dependent job has merged", 180)
    assert [one.state for one in medtask.status(out).shards] == ["finished"] * 4
    wait_for(lambda: "finished" in (out / "manifest.json").read_text(), "the run is finished")
    single = run(
        medtask.load_task(task_folder),
        medtask.load_model(model, dtype="float32"),
        rows,
        out=tmp_path / "single",
        baselines=False,
    )
    assert read_bytes(out) == read_bytes(single.folder)


@needs_slurm
@pytest.mark.scale
@pytest.mark.slow
def test_time_limits_and_kills_lose_nothing(
    task_folder: Path, tmp_path: Path, on_cluster: SlurmCluster
) -> None:
    """Each shard needs some 40 seconds and is stopped after 30, by its limit; one is killed."""
    rows = write_rows(tmp_path / "rows.csv", 240)
    out = tmp_path / "run"
    limits = medtask.SlurmOptions(partition="main", time="1", stop_seconds=30)
    submitted = submit(
        task_folder, rows, out, model="fake:ms_per_row=900,batch=1", slurm=limits, merge=False
    )
    folder = out / "shards" / "0002"
    wait_for(lambda: _count_rows(folder) > 3, "shard 2 has answers", 120)
    os.kill(json.loads((folder / ".lock").read_text())["pid"], signal.SIGKILL)

    def is_complete() -> bool:
        on_cluster.start_delayed(submitted.job)
        return all(one.state == "finished" for one in medtask.status(out).shards)

    wait_for(is_complete, "all shards are complete", 900)
    states = [[one["state"] for one in _read_attempts(out, number)] for number in range(1, 5)]
    assert states[1][0] == "running"  # killed: it could not write its end
    assert [one[0] for one in (states[0], *states[2:])] == ["interrupted"] * 3
    assert [one[-1] for one in states] == ["finished"] * 4
    assert [_count_asked(out, number) for number in (1, 3, 4)] == [60] * 3  # no row twice
    medtask.merge(out)
    single = run(
        medtask.load_task(task_folder), medtask.load_model("fake:"), rows, out=tmp_path / "single"
    )
    assert read_bytes(out) == read_bytes(single.folder)


def _count_rows(folder: Path) -> int:
    if not (folder / "manifest.json").exists():
        return 0
    with closing(sqlite3.connect(folder / "ledger.db")) as db, suppress(sqlite3.OperationalError):
        return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])
    return 0


def _read_attempts(out: Path, number: int) -> list[dict[str, object]]:
    file = out / "shards" / f"{number:04d}" / ".attempts.json"
    attempts: list[dict[str, object]] = json.loads(file.read_text())["attempts"]
    return attempts


def _count_asked(out: Path, number: int) -> int:
    done = json.loads((out / "shards" / f"{number:04d}" / "done.json").read_text())
    return int(done["timing"]["asked"])


@needs_slurm
@pytest.mark.slow
def test_a_cancelled_job_is_not_put_back_and_can_be_submitted_again(
    task_folder: Path, tmp_path: Path, on_cluster: SlurmCluster
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 40)
    out = tmp_path / "run"
    slow = {"model": "fake:ms_per_row=2000,batch=1", "shards": 1, "merge": False}
    submitted = submit(task_folder, rows, out, **slow)
    wait_for(lambda: describe(medtask.status(out))[0][0] == "running", "the shard runs")
    on_cluster.call("scancel", submitted.job)
    wait_for(lambda: not on_cluster.call("squeue", "-h").strip(), "the job ends")
    (shard,) = medtask.status(out).shards
    assert shard.state == "interrupted"
    with pytest.raises(InputError, match=r"1 \(interrupted\)"):
        medtask.merge(out)
    assert submit(task_folder, rows, out, **slow).shards == (1,)


@needs_slurm
@pytest.mark.slow
def test_a_job_that_never_starts_is_shown_with_the_reason_of_slurm(
    task_folder: Path, tmp_path: Path, on_cluster: SlurmCluster
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 40)
    out = tmp_path / "run"
    closed = medtask.SlurmOptions(partition="closed")
    submit(task_folder, rows, out, model="fake:", slurm=closed, merge=False)
    found = describe(medtask.status(out))
    assert {state for state, _, _ in found} == {"waiting"}
    assert all(reason.startswith("in Slurm's queue: Partition") for _, _, reason in found)
    with pytest.raises(InputError, match=r"4 of 4 shards .* in Slurm's queue: Partition"):
        medtask.merge(out)


@needs_slurm
@pytest.mark.slow
def test_what_slurm_refuses_is_reported_with_its_words(
    task_folder: Path, tmp_path: Path, on_cluster: SlurmCluster
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 40)
    unknown = medtask.SlurmOptions(partition="nowhere")
    with pytest.raises(EngineError, match=r"Slurm refused the job: .*invalid partition"):
        submit(task_folder, rows, tmp_path / "run", model="fake:", slurm=unknown)


def test_without_slurm_the_script_can_still_be_seen(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 40)
    monkeypatch.setenv("PATH", str(tmp_path))
    dry = submit(task_folder, rows, tmp_path / "run", model="fake:", dry_run=True)
    assert "#SBATCH --array=1-4\n" in dry.script
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="sbatch is not found") as refused:
        submit(task_folder, rows, tmp_path / "run", model="fake:")
    assert "--dry-run" in refused.value.fix
