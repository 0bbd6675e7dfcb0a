"""Several processes that train one model, as `accelerate launch` starts them; here on CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medtask
from medtask.training.training_log import read_points
from support.small_trainings import make_rows, make_task
from support.tiny_models import save_model


@pytest.mark.scale
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    make_task(tmp_path / "task")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, make_rows())) + "\n")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
        "-m",
        "medtask",
    ]
    words = [
        "train",
        "task",
        "rows.jsonl",
        "--base",
        base,
        "--out",
        "out",
        "--epochs",
        2,
        "--batch",
        8,
    ]
    words += ["--rank", 4, "--alpha", 4, "--rate", 0.01]
    done = subprocess.run(
        [*launch, *map(str, words), "--share", "0.2", "-q"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    points = read_points(tmp_path / "out" / "loss.csv")
    steps = [point.step for point in points if point.loss is not None]
    assert steps == list(range(1, points[-1].steps + 1))  # one process writes, and each step once
    checks = [point.validation_loss for point in points if point.validation_loss is not None]
    assert min(checks[1:]) < checks[0]
    assert done.stdout.count("medtask run TASK TABLE") == 1
    task = medtask.load_task(tmp_path / "task")
    [answer] = medtask.predict(
        task, medtask.load_model(str(tmp_path / "out")), [{"text": "CT of the left knee"}]
    )
    assert answer.value in ("knee", "wrist", "brain")
