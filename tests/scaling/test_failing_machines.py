"""Shards on machines with a slow disk, a full disk, or a wrong clock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import StorageError
from medtask.runs.local_run import run
from medtask.scaling.local_shards import answer_shards
from medtask.scaling.merging import merge
from medtask.scaling.plan import RunPlan
from medtask.scaling.run_status import status
from scaling.conftest import MakePlan
from support.recording_engine import read_asked, set_pace, write_recording_engine
from support.slow_disk import build_library, make_environment

pytestmark = pytest.mark.slow
FIVE_HOURS_S = 5 * 3600.0


def start(environment: Mapping[str, str], *words: str | Path | int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medtask", *map(str, words), "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def assert_merged(plan: RunPlan, engine: FakeEngine, single: Path) -> None:
    """The merged answers are those of a run in one process."""
    task, table = plan.open()
    run(task, engine, table, out=single, baselines=False)
    found, expected = (folder / "answers.csv" for folder in (plan.folder, single))
    assert found.read_bytes() == expected.read_bytes()


def test_processes_that_share_a_slow_folder_ask_no_row_twice(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    write_recording_engine(site)
    set_pace(site, 0.01)
    plan = make_plan(model=f"recording:{site}", shards=2)
    environment = make_environment(build_library(tmp_path), delay_s=0.03)
    environment["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    processes = [start(environment, "shard", plan.folder) for _ in range(2)]
    assert [process.wait(200) for process in processes] == [0, 0]
    assert start(environment, "merge", plan.folder).wait(200) == 0
    asked = [name for _, name in read_asked(site)]
    assert len(asked) == len(set(asked))
    assert_merged(plan, FakeEngine(seed=3), tmp_path / "single")


def test_clocks_of_machines_may_differ_by_hours(make_plan: MakePlan, tmp_path: Path) -> None:
    library = build_library(tmp_path)
    late, early = (
        make_environment(library, clock_offset_s=offset) for offset in (-FIVE_HOURS_S, FIVE_HOURS_S)
    )
    plan = make_plan(shards=2, model="fake:ms_per_row=20,batch=1")
    processes = [start(late, "shard", plan.folder, 1), start(early, "shard", plan.folder, 2)]
    while any(process.poll() is None for process in processes):
        for shard in status(plan.folder).shards:
            assert shard.state in ("waiting", "running", "finished")
            assert shard.left_s is None or 0 <= shard.left_s < 600
            assert shard.rows_per_s is None or 0 <= shard.rows_per_s < 1000
        time.sleep(0.05)
    assert [process.returncode for process in processes] == [0, 0]
    times = [_read_time(plan, number) for number in (1, 2)]
    assert times[1] - times[0] > timedelta(hours=9)  # their clocks did differ
    assert start(late, "merge", plan.folder).wait(200) == 0
    assert start(early, "merge", plan.folder).wait(200) == 0  # as repeated
    assert_merged(plan, FakeEngine(), tmp_path / "single")


def test_a_machine_that_continues_a_shard_may_have_an_earlier_clock(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    library = build_library(tmp_path)
    plan = make_plan(shards=2, model="fake:")
    early = make_environment(library, clock_offset_s=FIVE_HOURS_S)
    assert start(early, "shard", plan.folder, 1).wait(200) == 0
    folder = plan.get_folder(1)
    (folder.path / "done.json").unlink()  # as if it was killed just before its end
    late = make_environment(library, clock_offset_s=-FIVE_HOURS_S)
    assert start(late, "shard", plan.folder).wait(200) == 0
    assert [one.state for one in folder.read_attempts()] == ["finished", "finished"]
    merge(plan.folder)
    assert_merged(plan, FakeEngine(), tmp_path / "single")


def _read_time(plan: RunPlan, number: int) -> datetime:
    manifest = json.loads((plan.get_folder(number).path / "manifest.json").read_text())
    return datetime.fromisoformat(manifest["created"])


@contextmanager
def mount_small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of its own, as that of one machine; files remain in the folder afterwards."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    kept = folder.with_name("kept")
    try:
        yield
        shutil.copytree(folder, kept)
    finally:
        subprocess.run(["umount", folder], check=True)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    shutil.rmtree(kept)


def test_a_full_disk_of_one_machine_costs_only_its_last_rows(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(rows=800, shards=2, model="fake:ms_per_row=3,batch=4")
    with mount_small_disk(plan.get_folder(2).path, 100):
        with pytest.raises(StorageError) as refused:
            list(answer_shards(plan, [2]))
        assert refused.value.exit_code == 7
        assert [one.state for one in answer_shards(plan, [1])] == ["finished"]
        first, second = status(plan.folder).shards
        assert first.state == "finished"
        assert second.state in ("failed", "killed")  # there may be no room for the reason
    (continued,) = answer_shards(plan)
    assert 0 < continued.new_answers < 400
    merge(plan.folder)
    assert_merged(plan, FakeEngine(), tmp_path / "single")
