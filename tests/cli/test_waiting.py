"""No command is silent for long: what it does is printed, and that it goes on."""

from __future__ import annotations

import time

import pytest

from medtask.cli import console, waiting
from medtask.cli.waiting import name_activity, print_waiting_lines, set_activity


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_LINE_S", 0.3)
    monkeypatch.setattr(waiting, "LINE_INTERVAL_S", 0.6)


def test_a_silent_step_is_named_and_then_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with print_waiting_lines("Reading the table"), name_activity("Loading minilm"):
        time.sleep(1.4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Loading minilm", "Loading minilm: 0:01 so far"]
    assert "Reading the table" not in lines


def test_a_step_that_prints_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    with print_waiting_lines("Reading the table"):
        for number in range(8):
            console.print_line(f"row {number}", stderr=True)
            time.sleep(0.1)
    assert "Reading" not in capsys.readouterr().err


def test_a_step_that_shows_its_own_progress_describes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with print_waiting_lines("Starting"):
        set_activity(lambda: "3 of 40 answered", is_printed=True)
        time.sleep(1.0)
        set_activity(None)
        time.sleep(0.8)
    assert capsys.readouterr().err.splitlines() == ["3 of 40 answered"]
