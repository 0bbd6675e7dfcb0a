"""`medtask run --shards`, `shard`, `status` and `merge`, as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from medtask.scaling.run_status import status as read_status
from scaling.conftest import write_rows
from support.command_line import RunCommand
from support.slurm_cluster import wait_for


def read_bytes(folder: str) -> bytes:
    return (Path(folder) / "answers.csv").read_bytes()


def test_a_run_in_shards_writes_what_a_run_writes(
    medtask: RunCommand, project_folder: Path
) -> None:
    single = medtask("run", "surgery", "--model", "fake:", "--out", "single")
    done = medtask("run", "surgery", "--model", "fake:", "--out", "run", "--shards", 2)
    assert done.code == 0
    assert done.out.splitlines()[:-1] == single.out.splitlines()[:-1]  # the last names the folder
    assert read_bytes("run") == read_bytes("single")
    shown = medtask("status", "run").out
    assert shown.startswith("2 shards: 2 finished\n5 of 5 rows\n")
    assert "The shards are merged" in shown
    assert medtask("run", "surgery", "--model", "fake:", "--out", "run", "--shards", 2).code == 0


def test_a_stopped_run_in_shards_continues(medtask: RunCommand, project_folder: Path) -> None:
    words = ("run", "surgery", "--out", "run", "--shards", 3, "--model")
    assert medtask(*words, "fake:fails_after=2,batch=1").code == 5
    status = medtask("status", "run")
    assert "failed" in status.out and "medtask shard" in status.out
    document = json.loads(medtask("status", "run", "--json").out)
    assert document["rows"] == 5 and len(document["shards"]) == 3 and not document["merged"]
    assert medtask(*words, "fake:").code == 8  # planned with another model


def test_shards_are_answered_one_by_one_and_merged_by_hand(
    medtask: RunCommand, project_folder: Path
) -> None:
    dry = medtask("submit", "surgery", "--model", "fake:", "--shards", 2, "--dry-run")
    assert dry.code == 0 and "#SBATCH --array=1-2" in dry.out
    assert not (project_folder / "surgery" / "runs").exists()
    assert medtask("submit", "surgery", "--shards", 2).code == 2
    medtask("run", "surgery", "--out", "run", "--shards", 2, "--model", "fake:")
    (project_folder / "run" / "shards" / "0002" / "done.json").unlink()
    refused = medtask("merge", "run")
    assert refused.code == 4 and "1 of 2 shards" in refused.err
    assert medtask("shard", "run", 3).code == 2
    answered = json.loads(medtask("shard", "run", "--json").out)
    assert answered["shards"] == [
        {"shard": 2, "state": "finished", "rows": 3, "asked": 0, "exit_code": 0}
    ]
    assert medtask("merge", "run", "--quiet").code == 0
    assert json.loads(Path("run/manifest.json").read_text())["timing"]["sessions"] == 3
    assert medtask("status", "run").code == 0  # reads the manifest of the whole run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cache",), "cannot use the answer cache"),
        (("--cascade", "0.02"), "cannot use a cascade"),
    ],
)
def test_options_that_shards_do_not_have_are_refused(
    medtask: RunCommand, project_folder: Path, options: tuple[str, ...], words: str
) -> None:
    refused = medtask("run", "surgery", "--model", "fake:", "--shards", 2, *options)
    assert refused.code == 2 and words in refused.err


def test_rows_of_a_run_in_shards_are_asked_again(medtask: RunCommand, project_folder: Path) -> None:
    words = ("run", "surgery", "--model", "fake:", "--out", "run", "--shards", 2)
    assert "asked again in other batches: 0 of 3 rows" in medtask(*words, "--flip-check", 3).err
    again = medtask("merge", "run", "--flip-check", 4)
    assert "Loading fake:" in again.err and "0 of 4 rows" in again.err


def test_standard_input_cannot_be_split(medtask: RunCommand, project_folder: Path) -> None:
    assert medtask("run", "surgery", "-", "--shards", 2, stdin=b"case_id,procedure\n").code == 2


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_a_signal_stops_all(
    medtask: RunCommand, project_folder: Path
) -> None:
    write_rows(Path("rows.csv"), 60)
    task = Path("surgery/task.yaml")
    task.write_text(re.sub("^(id|gold): .*\n", "", task.read_text(), flags=re.MULTILINE))
    words = ["run", "surgery", "rows.csv", "--out", "run", "--shards", "4", "--quiet"]
    command = [sys.executable, "-m", "medtask", *words, "--model", "fake:ms_per_row=200,batch=1"]
    with subprocess.Popen([*command, "--workers", "2"]) as process:
        wait_for(lambda: _find_worker("run"), "a worker answers", 120)
        number, pid = _find_worker("run")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _count_attempts("run", number) > 1, "the shard is begun again", 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert _find_worker("run") is None
    medtask(*words, "--model", "fake:ms_per_row=200,batch=1", "--workers", "2")
    medtask("run", "surgery", "rows.csv", "--out", "single", "--model", "fake:")
    assert read_bytes("run") == read_bytes("single")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the environment of processes")
def test_each_worker_sees_one_of_the_devices(medtask: RunCommand, project_folder: Path) -> None:
    write_rows(Path("rows.csv"), 40)
    task = Path("surgery/task.yaml")
    task.write_text(re.sub("^(id|gold): .*\n", "", task.read_text(), flags=re.MULTILINE))
    words = ["run", "surgery", "rows.csv", "--out", "run", "--shards", "4", "--quiet"]
    command = [sys.executable, "-m", "medtask", *words, "--model", "fake:ms_per_row=100,batch=1"]
    with subprocess.Popen([*command, "--devices", "5, GPU-7"]) as process:
        seen: set[bytes] = set()
        while process.poll() is None:
            for child in psutil.Process(process.pid).children():
                with suppress(OSError):
                    environment = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
                    seen |= {one for one in environment if one.startswith(b"CUDA_VISIBLE")}
            time.sleep(0.1)
    assert process.returncode == 0
    assert seen == {b"CUDA_VISIBLE_DEVICES=5", b"CUDA_VISIBLE_DEVICES=GPU-7"}


def _find_worker(folder: str) -> tuple[int, int] | None:
    """A shard that is answered, and its process."""
    if not Path(folder, "plan.json").exists():
        return None
    running = [one.number for one in read_status(folder).shards if one.state == "running"]
    for number in running:
        if text := Path(folder, "shards", f"{number:04d}", ".lock").read_text():
            return number, json.loads(text)["pid"]
    return None


def _count_attempts(folder: str, number: int) -> int:
    return read_status(folder).shards[number - 1].attempts
