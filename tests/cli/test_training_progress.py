"""What people see of a training while it goes on, and above all how long it still takes."""

from __future__ import annotations

import math
import os
import pty
import subprocess
import sys

import pytest

from medtask.cli import training_progress as training
from medtask.cli.training_progress import TrainingProgressDisplay
from medtask.training.training_log import TrainingObserver, TrainingPoint


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, in the hands of the test."""
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    return now


def simulate_training(
    display: TrainingObserver,
    clock: list[float],
    first: int,
    last: int,
    *,
    step_s: float = 2.0,
    validation_s: float = 30.0,
    steps_per_epoch: int = 10,
) -> None:
    """Steps of an epoch of ``steps_per_epoch`` each, of 30, with a validation at its end."""
    for step in range(first, last + 1):
        clock[0] += step_s
        display.on_point(
            TrainingPoint(
                step,
                30,
                step / steps_per_epoch,
                loss=1 / step,
                rate=1e-3,
                rows_per_s=16.0,
                tokens_per_s=1204.0,
            )
        )
        if step % steps_per_epoch == 0:
            clock[0] += validation_s
            display.on_point(
                TrainingPoint(step, 30, step / steps_per_epoch, validation_loss=0.5, score=0.871)
            )


def test_the_facts_of_a_training_are_in_one_line(clock: list[float]) -> None:
    display = TrainingProgressDisplay()
    display.on_start(30, 0)
    assert display.describe() == ""
    simulate_training(display, clock, 1, 5)
    assert display.describe() == "loss 0.200   1,204 tokens/s   0:50 left"
    simulate_training(display, clock, 6, 12)
    assert (
        display.describe()
        == "loss 0.083   validation 0.500 (accuracy 0.871)   1,204 tokens/s   1:36 left"
    )
    simulate_training(display, clock, 13, 30)
    assert display.describe() == "loss 0.033   validation 0.500 (accuracy 0.871)   1,204 tokens/s"


@pytest.mark.parametrize("done", range(10, 30))
def test_validations_are_counted_once_wherever_the_training_is(
    clock: list[float], done: int
) -> None:
    display = TrainingProgressDisplay()
    display.on_start(30, 0)
    simulate_training(display, clock, 1, done)
    then = clock[0]
    left = display.estimate_seconds_left()
    simulate_training(display, clock, done + 1, 30)
    assert left == pytest.approx(clock[0] - then)
    assert display.estimate_seconds_left() is None


def test_a_resumed_training_is_timed_by_its_own_steps(clock: list[float]) -> None:
    display = TrainingProgressDisplay()
    clock[0] += 500  # the model is loaded
    display.on_start(30, 13)
    assert display.estimate_seconds_left() is None
    simulate_training(display, clock, 14, 15)
    assert display.estimate_seconds_left() == pytest.approx(15 * 2)  # no validation was timed yet
    simulate_training(display, clock, 16, 22)
    assert display.estimate_seconds_left() == pytest.approx(8 * 2 + 30)


def test_a_step_that_brings_its_validation_along_is_a_step(clock: list[float]) -> None:
    display = TrainingProgressDisplay()
    display.on_start(20, 0)
    for step in range(1, 6):
        clock[0] += 3
        display.on_point(TrainingPoint(step, 20, step / 20, validation_loss=0.6, score=0.9))
    assert display.describe() == "validation 0.600 (accuracy 0.900)   0:45 left"


def test_non_finite_numbers_are_shown_as_words(clock: list[float]) -> None:
    display = TrainingProgressDisplay()
    display.score_name = "macro-F1"
    display.on_start(2, 0)
    clock[0] += 1
    display.on_point(TrainingPoint(1, 2, 0.5, loss=math.nan, rows_per_s=12.34))
    display.on_point(TrainingPoint(1, 2, 0.5, validation_loss=math.inf, score=0.1))
    assert (
        display.describe()
        == "loss not finite   validation not finite (macro-F1 0.100)   12.3 rows/s"
    )


def test_a_log_gets_a_line_every_ten_seconds_and_at_every_validation(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = TrainingProgressDisplay()
    display.on_load("smollm2-135m")
    display.on_note("3 rows are left out")
    display.model_title = "smollm2-135m"
    display.on_start(30, 0)
    simulate_training(display, clock, 1, 12, validation_s=4)
    display.on_finish()
    display.on_finish()
    assert capsys.readouterr().err.splitlines() == [
        "Loading smollm2-135m",
        "note: 3 rows are left out",
        "Training smollm2-135m: 30 steps",
        "step 5 of 30   loss 0.200   1,204 tokens/s   0:50 left",
        "step 10 of 30   loss 0.100   1,204 tokens/s   0:40 left",
        (
            "step 10 of 30   loss 0.100   validation 0.500 (accuracy 0.871)   1,204 tokens/s   "
            "0:48 left"
        ),
        "Training finished; saving and evaluating the model",
    ]


def test_a_resumed_training_reports_where_it_goes_on(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    TrainingProgressDisplay().on_start(294, 120)
    assert capsys.readouterr().err == "Training: resumes after step 120 of 294\n"


def test_quiet_is_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgressDisplay(quiet=True) as display:
        display.on_load("a model")
        display.on_note("a note")
        display.on_start(30, 0)
        simulate_training(display, clock, 1, 30)
        display.on_finish()
    assert capsys.readouterr() == ("", "")


def test_only_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for quiet, has_bar in ((False, True), (True, False)):
        with TrainingProgressDisplay(quiet=quiet) as display:
            display.on_start(30, 0)
        assert ("━" in capsys.readouterr().err) == has_bar


TERMINAL_SCRIPT = """
from medtask.cli import remaining_time
remaining_time.MIN_SECONDS, remaining_time.MIN_UPDATES = 0, 1
from medtask.cli.training_progress import TrainingProgressDisplay
from medtask.training.training_log import TrainingPoint
with TrainingProgressDisplay(quiet=False) as display:
    display.on_start(294, 0)
    display.on_point(TrainingPoint(98, 294, 1.0, loss=0.412, tokens_per_s=1204.0))
    display.on_point(TrainingPoint(98, 294, 1.0, validation_loss=0.389, score=0.871))
    display.on_finish()
"""


def test_a_terminal_of_eighty_columns_shows_all_of_it() -> None:
    terminal, terminal_end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL_SCRIPT],
        stderr=terminal_end,
        stdout=terminal_end,
        env=environment,
    ) as process:
        process.wait()
        shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    os.close(terminal_end)
    assert "━" in shown
    assert "loss 0.412" in shown
    assert "validation 0.389 (accuracy 0.871)" in shown
    assert "left" in shown
