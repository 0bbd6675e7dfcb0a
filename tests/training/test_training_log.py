"""The training log survives every end of a training."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtask.errors import InputError, StorageError
from medtask.training import training_log as journal
from medtask.training.training_log import (
    COLUMNS,
    NullTrainingObserver,
    TrainingLog,
    TrainingPoint,
    count_validations_since_best,
    find_best_point,
    has_no_gain,
    read_points,
)
from support.file_size_limit import limit_file_size


class RecordingObserver(NullTrainingObserver):
    def __init__(self) -> None:
        self.points: list[TrainingPoint] = []

    def on_point(self, point: TrainingPoint) -> None:
        self.points.append(point)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, in the hands of the test."""
    now = [1000.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    return now


def fill_journal(path: Path, steps: range, resume_step: int = 0) -> TrainingLog:
    kept = TrainingLog(path, NullTrainingObserver(), resume_step)
    for step in steps:
        kept.add(TrainingPoint(step, 100, step / 10, loss=1 / step))
    return kept


def test_a_point_is_on_the_disk_for_its_owner_before_it_is_shown(
    tmp_path: Path, clock: list[float]
) -> None:
    path = tmp_path / "loss.csv"
    seen: list[str] = []

    class FileReadingObserver(NullTrainingObserver):
        def on_point(self, point: TrainingPoint) -> None:
            seen.append(path.read_text())

    kept = TrainingLog(path, FileReadingObserver())
    assert path.stat().st_mode & 0o777 == 0o600
    clock[0] += 2.5
    kept.add(TrainingPoint(4, 12, 0.5, loss=0.75, rate=1e-3, rows_per_s=8.0, tokens_per_s=1204.0))
    clock[0] += 1
    kept.add(TrainingPoint(4, 12, 0.5, validation_loss=0.5, score=0.875))
    assert seen[-1].splitlines() == [
        "step,steps,epoch,loss,validation_loss,score,rate,rows_per_s,tokens_per_s,seconds",
        "4,12,0.5,0.75,,,0.001,8.0,1204.0,2.5",
        "4,12,0.5,,0.5,0.875,,,,3.5",
    ]
    assert len(seen) == 2


def test_a_resumed_training_drops_what_its_checkpoint_does_not_know(
    tmp_path: Path, clock: list[float]
) -> None:
    path = tmp_path / "loss.csv"
    first = TrainingLog(path, NullTrainingObserver())
    for step in range(1, 8):
        clock[0] += 10
        first.add(TrainingPoint(step, 20, step / 10))
    listener = RecordingObserver()
    clock[0] += 3600  # between the sessions
    second = TrainingLog(path, listener, resume_step=5)
    assert [point.step for point in read_points(path)] == [1, 2, 3, 4, 5]
    clock[0] += 10
    second.add(TrainingPoint(6, 20, 0.6))
    assert [(point.step, point.seconds) for point in second.points] == [
        (step, 10.0 * step) for step in range(1, 7)
    ]
    assert listener.points == [second.points[-1]]
    assert read_points(path) == second.points


@pytest.mark.parametrize(
    ("losses", "nothing"),
    [((1.0, 0.9, 1.2), False), ((1.0, 1.1, 1.0), True), ((1.0,), False), ((), False)],
)
def test_a_training_that_gained_nothing_is_known(losses: tuple[float, ...], nothing: bool) -> None:
    points = [
        TrainingPoint(5 * index, 10, index, validation_loss=loss)
        for index, loss in enumerate(losses)
    ]
    assert has_no_gain([*points, TrainingPoint(10, 10, 1.0, loss=0.1)]) == nothing


def test_a_training_that_begins_anew_has_no_earlier_points(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    fill_journal(path, range(1, 4))
    path.write_text(path.read_text() + "not a point at all\n")
    assert TrainingLog(path, NullTrainingObserver()).points == ()
    assert read_points(path) == ()


def test_a_resumed_training_whose_file_is_gone_goes_on_without_it(tmp_path: Path) -> None:
    assert fill_journal(tmp_path / "loss.csv", range(6, 8), resume_step=5).points[0].step == 6


def test_wherever_a_line_breaks_off_the_lines_before_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    points = fill_journal(path, range(1, 4)).points
    full = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(full) if byte == ord("\n")]
    for length in range(len(full) + 1):
        path.write_bytes(full[:length])
        lines = sum(end <= length for end in ends)
        assert read_points(path) == points[: max(0, lines - 1)]


def test_half_a_line_is_gone_before_the_next_point_is_written(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    fill_journal(path, range(1, 4))
    with path.open("ab") as file:
        file.write(b"4,100,0.4,0.2\xff")
    fill_journal(path, range(4, 5), resume_step=4)
    assert [point.step for point in read_points(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,loss\n1,0.5\n", "columns step, steps, epoch"),
        (",".join(COLUMNS) + "\n1,2,0.5\n", "line 2"),
        (",".join(COLUMNS) + "\n1,2,0.5,,,,,,,1.0\n1,2,0.5,low,,,,,,1.0\n", "line 3"),
        (",".join(COLUMNS) + "\n1,2,,,,,,,,1.0\n", "line 2"),
        (",".join(COLUMNS) + "\né,2,,,,,,,,1.0\n", "cannot be read"),
    ],
)
def test_anything_else_that_is_wrong_is_an_error_with_its_place(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "loss.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=message) as refusal:
        TrainingLog(path, NullTrainingObserver(), resume_step=1)
    assert "move the file aside" in refusal.value.fix
    assert path.read_text("utf-8") == content


def test_a_file_that_is_not_there_is_an_error_to_who_asks_for_its_points(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss\.csv cannot be read \(FileNotFoundError\)"):
        read_points(tmp_path / "loss.csv")


@pytest.mark.parametrize("spare", [0, 5])
def test_on_a_full_disk_no_half_line_stays_behind(tmp_path: Path, spare: int) -> None:
    path = tmp_path / "loss.csv"
    kept = fill_journal(path, range(1, 4))
    before = path.read_bytes()
    with (
        limit_file_size(len(before) + spare),
        pytest.raises(StorageError, match=r"loss\.csv cannot be written"),
    ):
        kept.add(TrainingPoint(4, 100, 0.4))
    assert path.read_bytes() == before
    kept.add(TrainingPoint(4, 100, 0.4))
    assert read_points(path) == kept.points
    assert [point.step for point in kept.points] == [1, 2, 3, 4]


JOURNAL_SCRIPT = """
import sys
from pathlib import Path
from medtask.training.training_log import NullTrainingObserver, TrainingLog, TrainingPoint
log = TrainingLog(Path(sys.argv[1]), NullTrainingObserver())
for step in range(1, 1_000_000):
    log.add(TrainingPoint(step, 1_000_000, step / 10, loss=1 / step, tokens_per_s=1e6 / 3))
    print(step, flush=True)
"""


def test_a_killed_training_loses_no_point_that_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    with subprocess.Popen(
        [sys.executable, "-c", JOURNAL_SCRIPT, str(path)], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout
        list(itertools.islice(victim.stdout, 50))
        os.kill(victim.pid, signal.SIGKILL)
        shown = 50 + len(victim.stdout.read().splitlines())
    kept = [point.step for point in read_points(path)]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) - shown in (0, 1)  # the last one was killed between the disk and the terminal
    assert fill_journal(path, range(41, 43), resume_step=40).points[-1].step == 42
    assert len(read_points(path)) == 42


numbers = st.none() | st.floats()
points = st.builds(
    TrainingPoint,
    step=st.integers(0, 10**9),
    steps=st.integers(0, 10**9),
    epoch=st.floats(0, 1e6),
    loss=numbers,
    validation_loss=numbers,
    score=numbers,
    rate=numbers,
    rows_per_s=numbers,
    tokens_per_s=numbers,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(st.lists(points, max_size=5))
def test_what_is_read_is_what_was_written_to_the_last_bit(
    tmp_path: Path, added: list[TrainingPoint]
) -> None:
    kept = TrainingLog(tmp_path / "loss.csv", NullTrainingObserver())
    for point in added:
        kept.add(point)
    # By repr, since nan is not equal to itself.
    assert repr(read_points(kept.path)) == repr(kept.points)
    assert repr([replace(point, seconds=0.0) for point in kept.points]) == repr(added)


def test_the_best_is_the_first_with_the_lowest_loss() -> None:
    points = [
        TrainingPoint(1, 4, 1, validation_loss=0.5, score=0.9),
        TrainingPoint(2, 4, 2, validation_loss=0.4, score=0.8),
    ]
    points += [
        TrainingPoint(3, 4, 3, validation_loss=0.4, score=0.95),
        TrainingPoint(4, 4, 4, validation_loss=math.nan),
    ]
    assert find_best_point(points) == points[1]
    assert find_best_point(
        [TrainingPoint(1, 2, 1, score=0.5), TrainingPoint(2, 2, 2, score=0.6)]
    ) == TrainingPoint(2, 2, 2, score=0.6)
    assert (
        find_best_point(
            [TrainingPoint(1, 2, 1, loss=0.5), TrainingPoint(2, 2, 2, validation_loss=math.nan)]
        )
        is None
    )


def test_patience_counts_from_the_lowest_loss() -> None:
    def count(*losses: float) -> int:
        return count_validations_since_best(
            [
                TrainingPoint(step, 9, step, validation_loss=loss)
                for step, loss in enumerate(losses, 1)
            ]
        )

    assert count() == 0
    assert count(3.0, 2.0, 2.0, 2.5) == 2
    assert count(3.0, 2.0, 1.0) == 0
