"""Shards and their merge: the answers are those of one run, whatever happens to the processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from medtask.engines.base import Engine
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import LoadOptions
from medtask.engines.registry import load_model
from medtask.errors import (
    EngineError,
    InputError,
    RunLocked,
    RunMismatch,
    StorageError,
    UsageError,
)
from medtask.records import Prompt, Scores
from medtask.runs.local_run import run
from medtask.runs.lock import lock_run
from medtask.runs.progress import NullRunObserver
from medtask.scaling.local_shards import answer_shards
from medtask.scaling.merging import merge
from medtask.scaling.plan import RunPlan, read_plan
from medtask.scaling.run_status import status
from medtask.scaling.shard_session import MAX_ATTEMPTS
from medtask.scaling.shards import ShardAttempt
from medtask.scaling.workers import answer_with_workers
from medtask.tasks.load import load_task
from scaling.conftest import MakePlan
from support.file_size_limit import limit_file_size
from support.tiny_models import save_model


def answer_all(plan: RunPlan) -> None:
    results = list(answer_shards(plan))
    assert [one.state for one in results] == ["finished"] * len(results)


def run_single(plan: RunPlan, folder: Path) -> Path:
    """The same run in one process; returns its folder."""
    task, table = plan.open()
    model = load_model(plan.model, plan.load_options)
    return run(task, model, table, out=folder, baselines=False).folder


def read_bytes(folder: Path) -> bytes:
    return (folder / "answers.csv").read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_merged_shards_are_the_answers_of_one_run(
    make_plan: MakePlan, tmp_path: Path, suffix: str
) -> None:
    plan = make_plan(suffix=suffix)
    answer_all(plan)
    result = merge(plan.folder)
    assert result.state == "finished" and result.rows == 40
    single = run_single(plan, tmp_path / "single")
    assert read_bytes(plan.folder) == read_bytes(single)
    merged, known = (
        json.loads((folder / "report.json").read_text()) for folder in (plan.folder, single)
    )
    assert merged["metrics"] == known["metrics"]
    assert merged["statuses"] == known["statuses"]


@pytest.mark.slow
def test_a_real_model_in_float32_gives_the_same_bytes(make_plan: MakePlan, tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", "llama"))
    plan = make_plan(rows=90, shards=4, model=model, load_options=LoadOptions(dtype="float32"))
    answer_all(plan)
    merge(plan.folder)
    assert read_bytes(plan.folder) == read_bytes(run_single(plan, tmp_path / "single"))


def test_equal_texts_in_different_shards_have_exactly_the_same_numbers(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    model = str(save_model(tmp_path / "model", "llama"))
    plan = make_plan(rows=60, shards=3, model=model, load_options=LoadOptions(dtype="float32"))
    answer_all(plan)
    merge(plan.folder)
    table = pl.read_parquet(plan.folder / "answers.parquet")
    groups = table.filter(pl.col("procedure").is_not_null()).group_by("procedure")
    counted = groups.agg(pl.len(), pl.col("confidence").n_unique().alias("numbers"))
    assert counted["len"].max() > 1
    assert counted["numbers"].max() == 1


def test_missing_shards_are_listed(make_plan: MakePlan) -> None:
    plan = make_plan()
    list(answer_shards(plan, [1, 3]))
    listed = r"2 of 4 shards .* 2 \(waiting\), 4 \(waiting\)"
    with pytest.raises(InputError, match=listed) as refused:
        merge(plan.folder)
    assert refused.value.exit_code == 4
    assert f"medtask shard {plan.folder}" in refused.value.fix
    assert not (plan.folder / "answers.csv").exists()


def test_a_merge_can_be_repeated(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    merge(plan.folder)
    before = read_bytes(plan.folder)
    assert merge(plan.folder).new_answers == 0
    assert read_bytes(plan.folder) == before


def test_a_merged_folder_is_a_run_folder(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    merge(plan.folder)
    manifest = json.loads((plan.folder / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert manifest["shards"] == {"count": 4, "rows": [10, 10, 10, 10]}
    assert manifest["timing"]["sessions"] == 4
    task, table = plan.open()
    engine = FakeEngine()
    resumed = run(task, engine, table, out=plan.folder, baselines=False)
    assert (resumed.new_answers, engine.prompt_count) == (0, 0)


class OtherEngine(FakeEngine):
    """The model of the plan, whose answers are others."""

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.seed = 7
        return super().score_batch(batch)


def test_rows_of_merged_shards_are_asked_again(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    merge(plan.folder, flip_check=15)
    before = read_bytes(plan.folder)
    assert read_flips(plan) == (15, 0)
    merge(plan.folder, flip_check=15, load=OtherEngine)
    rows, flips = read_flips(plan)
    assert rows == 15 and flips > 3
    assert read_bytes(plan.folder) == before
    report = (plan.folder / "report.html").read_text()
    assert f"{flips} of 15 rows changed the answer" in report


def read_flips(plan: RunPlan) -> tuple[int, int]:
    entry = json.loads((plan.folder / "manifest.json").read_text())["flip_check"]
    return entry["rows"], entry["flips"]


def test_rows_are_not_asked_again_by_another_model(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    with pytest.raises(RunMismatch, match="not the one that has answered") as refused:
        merge(plan.folder, flip_check=5, load=lambda: FakeEngine(seed=7))
    assert "without --flip-check" in refused.value.fix
    merge(plan.folder)


def test_a_shard_that_runs_twice_is_asked_once(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    before = plan.get_folder(2).ledger.read_bytes()
    again = list(answer_shards(plan, [2], load=refuse_loading))
    assert again == []
    assert plan.get_folder(2).ledger.read_bytes() == before


def refuse_loading() -> Engine:
    raise AssertionError("a complete shard needs no model")


def test_two_processes_never_answer_one_shard(make_plan: MakePlan) -> None:
    plan = make_plan()
    folder = plan.get_folder(2).path
    folder.mkdir(parents=True)
    with lock_run(folder):
        with pytest.raises(RunLocked):
            list(answer_shards(plan, [2]))
        assert [one.number for one in answer_shards(plan)] == [1, 3, 4]


def test_a_lost_shard_is_answered_again(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    answer_all(plan)
    for path in (plan.folder / "shards" / "0003").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"1 of 4 shards .* is missing: 3"):
        merge(plan.folder)
    answer_all(plan)
    merge(plan.folder)
    assert read_bytes(plan.folder) == read_bytes(run_single(plan, tmp_path / "single"))


def test_a_damaged_shard_is_found_and_its_lost_rows_are_asked_again(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan()
    answer_all(plan)
    with sqlite3.connect(plan.get_folder(2).ledger) as db:
        db.execute("UPDATE answers SET confidence = 0.5 WHERE row = 4")
    db.close()
    with pytest.raises(StorageError, match="shard 2 is damaged") as refused:
        merge(plan.folder)
    assert "done.json" in refused.value.fix
    (plan.get_folder(2).path / "done.json").unlink()
    answer_all(plan)
    merge(plan.folder)
    assert read_bytes(plan.folder) == read_bytes(run_single(plan, tmp_path / "single"))


def test_a_changed_task_is_refused(make_plan: MakePlan, task_folder: Path) -> None:
    plan = make_plan()
    answer_all(plan)
    file = task_folder / "task.yaml"
    file.write_text(file.read_text().replace("main purpose", "purpose"))
    for refused in (lambda: merge(plan.folder), lambda: list(answer_shards(plan))):
        with pytest.raises(RunMismatch, match="has changed since") as error:
            refused()
        assert error.value.exit_code == 8


def test_a_changed_table_is_refused_and_a_touched_one_is_not(make_plan: MakePlan) -> None:
    plan = make_plan()
    answer_all(plan)
    path = Path(plan.table.sources[0])
    os.utime(path, (0, 0))  # as after copying, or with another machine's clock
    merge(plan.folder)
    content = path.read_text()
    path.write_text(content.replace("resection", "excision", 1))
    with pytest.raises(RunMismatch, match=r"data\.sha256"):
        merge(plan.folder)


def test_shards_of_different_models_are_not_merged(make_plan: MakePlan) -> None:
    plan = make_plan()
    list(answer_shards(plan, [1]))
    with pytest.raises(RunMismatch, match="another model than shard 2"):
        list(answer_shards(plan, [2], load=lambda: FakeEngine(seed=7)))
    assert status(plan.folder).shards[1].state == "failed"


def test_a_full_disk_ends_one_shard_and_keeps_its_answers(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(rows=600, shards=2)
    with limit_file_size(40_000), pytest.raises(StorageError) as refused:
        list(answer_shards(plan, [1]))
    assert refused.value.exit_code == 7
    assert status(plan.folder).shards[0].state == "failed"
    answer_all(plan)
    merge(plan.folder)
    assert read_bytes(plan.folder) == read_bytes(run_single(plan, tmp_path / "single"))


@pytest.mark.slow
def test_two_merges_at_once_exclude_each_other(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(rows=400)
    answer_all(plan)
    command = [sys.executable, "-m", "medtask", "merge", str(plan.folder), "--quiet"]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    codes = sorted(process.wait(timeout=120) for process in processes)
    assert codes[0] == 0 and set(codes) <= {0, 6}
    assert read_bytes(plan.folder) == read_bytes(run_single(plan, tmp_path / "single"))


def test_processes_that_are_killed_again_and_again_are_refused_once(make_plan: MakePlan) -> None:
    plan = make_plan()
    plan.get_folder(1).write_attempts([ShardAttempt("host", "", 0)] * MAX_ATTEMPTS)
    with pytest.raises(EngineError, match="3 processes were stopped before"):
        list(answer_shards(plan, [1]))
    # With more memory it may work.
    assert [one.state for one in answer_shards(plan, [1])] == ["finished"]


@contextmanager
def claim_as_other_host(folder: Path, job: str) -> Iterator[None]:
    """A lock file as a process on another host leaves it when the host fails."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = {"host": "node-7", "boot": "another", "pid": 1, "since": "2026-11-29T10:00:00+00:00"}
    (folder / ".lock").write_text(json.dumps(holder))
    yield


def test_a_requeued_job_takes_over_from_its_own_process_on_a_failed_node(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    folder = plan.get_folder(2)
    with claim_as_other_host(folder.path, "17_2"):
        folder.write_attempts([ShardAttempt("node-7", "17_2", 0)])
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
        assert [one.state for one in answer_shards(plan, [2])] == ["finished"]


def test_a_shard_on_another_host_is_not_taken_over_without_force(make_plan: MakePlan) -> None:
    plan = make_plan()
    folder = plan.get_folder(2)
    with claim_as_other_host(folder.path, ""):
        folder.write_attempts([ShardAttempt("node-7", "", 0)])
        assert status(plan.folder).shards[1].state == "running"
        with pytest.raises(RunLocked, match="node-7"):
            list(answer_shards(plan, [2]))
        assert [one.state for one in answer_shards(plan, [2], force_lock=True)] == ["finished"]


@pytest.mark.slow
def test_workers_take_over_a_shard_on_another_host_with_force(make_plan: MakePlan) -> None:
    plan = make_plan(shards=2)
    with claim_as_other_host(plan.get_folder(2).path, ""):
        with pytest.raises(EngineError, match="not all shards are complete"):
            answer_with_workers(plan, 2, NullRunObserver())
        assert answer_with_workers(plan, 2, NullRunObserver(), force_lock=True) == 0


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no plan\.json"):
        merge(tmp_path)


def test_a_damaged_plan_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan()
    (plan.folder / "plan.json").write_text('{"format": 1')
    with pytest.raises(StorageError, match="damaged"):
        read_plan(plan.folder)


def test_the_same_request_continues_a_plan_and_another_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan()
    assert make_plan() == plan
    with pytest.raises(RunMismatch, match=r"shards: '4' became '5'"):
        make_plan(shards=5)


def test_a_cascade_is_not_split_into_shards(make_plan: MakePlan, task_folder: Path) -> None:
    with (task_folder / "task.yaml").open("a") as file:
        file.write("cascade: {alpha: 0.02}\n")
    with pytest.raises(UsageError, match="cascade"):
        make_plan()


def test_a_plan_survives_its_file(make_plan: MakePlan) -> None:
    plan = make_plan(load_options=LoadOptions(dtype="float32", threads=1))
    assert read_plan(plan.folder) == plan
    assert load_task(plan.task).name == "purpose"
