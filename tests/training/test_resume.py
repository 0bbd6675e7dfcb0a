"""Trainings in separate processes that are killed, interrupted or run out of disk space."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import medtask
from medtask.errors import InputError
from medtask.training import trainer
from medtask.training.training_log import TrainingPoint, read_points
from support import training_process
from support.tiny_models import save_model

TRAINING_SCRIPT = Path(training_process.__file__)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def start_training(folder: Path, base: Path, pause: float = 0.0) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(TRAINING_SCRIPT), str(folder), str(base), str(pause)]
    return subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    _, result = process.communicate(timeout=900)
    assert b"Traceback" not in result, result.decode()
    return process.returncode


def list_losses(points: tuple[TrainingPoint, ...]) -> list[tuple[int, float | None, float | None]]:
    return [(point.step, point.loss, point.validation_loss) for point in points]


def wait_for_step(folder: Path, step: int) -> None:
    curve = folder / "out" / "loss.csv"
    until = time.monotonic() + 240
    while time.monotonic() < until:
        if curve.exists() and curve.read_text().count("\n") > step + 1:
            return
        time.sleep(0.02)
    raise AssertionError("the training did not get there")


@pytest.mark.scale
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, base: Path
) -> None:
    assert wait_for_exit(start_training(tmp_path / "calm", base)) == 0
    undisturbed = read_points(tmp_path / "calm" / "out" / "loss.csv")
    draw = random.Random(11)
    for step in (2, 7):
        process = start_training(tmp_path / "killed", base, pause=0.05)
        wait_for_step(tmp_path / "killed", step)
        time.sleep(draw.random() * 0.2)
        process.kill()
        process.communicate(timeout=60)
        with pytest.raises(InputError, match="training was interrupted"):
            medtask.load_model(str(tmp_path / "killed" / "out"))
    assert wait_for_exit(start_training(tmp_path / "killed", base)) == 0
    killed = read_points(tmp_path / "killed" / "out" / "loss.csv")
    assert [step for step, _, _ in list_losses(killed)] == [
        step for step, _, _ in list_losses(undisturbed)
    ]
    for one, other in zip(list_losses(killed), list_losses(undisturbed), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    weights = [
        (tmp_path / name / "out" / "adapter_model.safetensors").read_bytes()
        for name in ("calm", "killed")
    ]
    assert len(weights[0]) == len(weights[1])
    assert not (tmp_path / "killed" / "out" / ".training").exists()
    medtask.load_model(str(tmp_path / "killed" / "out"))


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_so_far_and_another_process_goes_on(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_training(tmp_path, base, pause=0.2)
    wait_for_step(tmp_path, 4)
    process.send_signal(signal.SIGINT)
    assert wait_for_exit(process) == 130
    stopped = read_points(tmp_path / "out" / "loss.csv")
    engine = medtask.load_model(str(tmp_path / "out"))
    assert engine.info.name == "hf"
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", trainer.CHECKPOINT_SECONDS)
    for home in (tmp_path, tmp_path / "calm"):
        assert training_process.main(home, str(base), 0.0) == 0
    full, undisturbed = (
        read_points(home / "out" / "loss.csv") for home in (tmp_path, tmp_path / "calm")
    )
    assert full[-1].step == full[-1].steps > stopped[-1].step
    for one, other in zip(list_losses(full), list_losses(undisturbed), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
