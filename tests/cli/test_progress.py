from __future__ import annotations

import pytest

from medtask.cli import progress
from medtask.cli.progress import RunProgressDisplay, RunProgressLines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, in the hands of the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_pace_is_told_in_four_facts(clock: list[float]) -> None:
    meter = RunProgressDisplay()
    meter.on_start(1000, 0)
    clock[0] += 10
    meter.on_batch(200, 1800, 18200)
    assert meter.describe(1800, 18200) == " 20 %   20.0 rows/s   91 % of tokens reused   0:40 left"


def test_rows_of_an_earlier_session_do_not_count_as_speed(clock: list[float]) -> None:
    meter = RunProgressDisplay()
    clock[0] += 3
    meter.on_start(1000, 500)
    clock[0] += 10
    meter.on_batch(600, 0, 0)
    assert meter.rows_per_second() == pytest.approx(10)
    assert meter.first_answer_s == pytest.approx(13)
    assert meter.describe(0, 0) == " 60 %   10.0 rows/s   0:40 left"


def test_a_run_that_has_nothing_to_ask_has_no_pace(clock: list[float]) -> None:
    meter = RunProgressDisplay()
    meter.on_start(5, 5)
    meter.on_batch(5, 0, 0)
    assert (meter.rows_per_second(), meter.first_answer_s) == (0.0, None)
    assert meter.describe(0, 0) == "100 %   0.0 rows/s"


def test_a_log_gets_a_line_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    meter = RunProgressLines()
    meter.model_title = "a model"
    meter.on_start(7200, 0)
    for done in range(1, 26):
        clock[0] += 1
        meter.on_batch(done, 10, 90)
    assert capsys.readouterr().err.splitlines() == [
        "Labelling 7,200 rows with a model",
        "10 of 7,200     0 %   1.0 rows/s   90 % of tokens reused   1:59:50 left",
        "20 of 7,200     0 %   1.0 rows/s   90 % of tokens reused   1:59:40 left",
    ]
