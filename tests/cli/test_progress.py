from __future__ import annotations

import pytest

from medtask.cli import progress
from medtask.cli.progress import RunProgressDisplay, SearchProgressDisplay
from medtask.training.search.candidate_evaluator import SearchTrial


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, in the hands of the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_throughput_is_reported_as_four_numbers(clock: list[float]) -> None:
    display = RunProgressDisplay(quiet=True)
    display.on_start(1000, 0)
    for batch in range(1, 5):
        clock[0] += 2.5
        display.on_batch(50 * batch, 1800, 18200)
    assert (
        display.describe(1800, 18200) == " 20 %   20.0 rows/s   91 % of tokens reused   0:40 left"
    )
    clock[0] += 60  # nothing happens: the time left is not known
    assert "left" not in display.describe(1800, 18200)


def test_rows_of_an_earlier_session_do_not_count_as_speed(clock: list[float]) -> None:
    display = RunProgressDisplay()
    clock[0] += 3
    display.on_start(1000, 500)
    for batch in range(1, 5):
        clock[0] += 2.5
        display.on_batch(500 + 25 * batch, 0, 0)
    assert display.rows_per_second() == pytest.approx(10)
    assert display.first_answer_s == pytest.approx(5.5)
    assert display.describe(0, 0) == " 60 %   10.0 rows/s   0:40 left"


def test_a_run_that_has_nothing_to_ask_has_no_pace(clock: list[float]) -> None:
    display = RunProgressDisplay()
    display.on_start(5, 5)
    display.on_batch(5, 0, 0)
    assert (display.rows_per_second(), display.first_answer_s) == (0.0, None)
    assert display.describe(0, 0) == "100 %   0.0 rows/s"


def test_a_log_gets_a_line_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = RunProgressDisplay()
    display.model_title = "a model"
    display.on_start(7200, 0)
    for done in range(1, 26):
        clock[0] += 1
        display.on_batch(done, 10, 90)
    assert capsys.readouterr().err.splitlines() == [
        "Labelling 7,200 rows with a model",
        "10 of 7,200     0 %   1.0 rows/s   90 % of tokens reused   1:59:50 left",
        "20 of 7,200     0 %   1.0 rows/s   90 % of tokens reused   1:59:40 left",
    ]


def test_what_is_left_of_a_search_is_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    SearchProgressDisplay().on_trial(SearchTrial(0, "original task", 0.455, 0.455, 1200.0))
    assert "about 20 minutes of the budget left   original task" in capsys.readouterr().err
