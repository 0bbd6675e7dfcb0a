"""Clocks that jump during a run, or differ between processes: nothing depends on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError
from medtask.runs import manifest
from medtask.runs.local_run import run
from medtask.runs.lock import lock_run
from medtask.runs.manifest import read_manifest
from medtask.tasks.task import Task

DAY = 86_400


def test_durations_do_not_follow_a_clock_that_jumps(
    task: Task,
    write_rows: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, jumps = time.monotonic(), cycle((5 * DAY, -9 * DAY, 0, -400 * DAY))
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + next(jumps))
    dates = iter(range(0, -10_000, -1))  # each later one is a day earlier

    def get_earlier_date() -> str:
        return (datetime.now(UTC) + timedelta(days=next(dates))).isoformat(timespec="seconds")

    monkeypatch.setattr(manifest, "get_timestamp", get_earlier_date)
    rows, out = write_rows(60), tmp_path / "out"
    with pytest.raises(EngineError):
        run(task, FakeEngine(ms_per_row=1, fails_after=30), rows, out=out, baselines=False)
    result = run(task, FakeEngine(ms_per_row=1), rows, out=out, baselines=False)
    elapsed = time.monotonic() - started
    found = read_manifest(out)
    assert found is not None
    timing = found["timing"]
    assert timing["sessions"] == 2
    assert 0 < result.seconds <= elapsed
    assert 0 < timing["asking_seconds"] <= timing["seconds"] + 0.1 <= elapsed + 0.2
    assert 0 < timing["rows_per_s"] <= 60 / 0.03  # at least 30 new prompts of a millisecond
    assert result.first_answer_s is None or 0 <= result.first_answer_s <= elapsed


@pytest.mark.parametrize("days", [-20_000, -400, 400])
def test_the_age_of_a_lock_does_not_matter(tmp_path: Path, days: int) -> None:
    with lock_run(tmp_path):
        file = tmp_path / ".lock"
        holder = json.loads(file.read_text())
        holder["since"] = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
        file.write_text(json.dumps(holder))
        moment = max(0.0, time.time() + days * DAY)
        os.utime(file, (moment, moment))
        code = (
            "import sys; from pathlib import Path; from medtask.errors import RunLocked\n"
            "from medtask.runs.lock import lock_run\n"
            "try:\n    with lock_run(Path(sys.argv[1])): pass\n"
            "except RunLocked: sys.exit(6)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert done.returncode == 6
    with lock_run(tmp_path):
        pass
