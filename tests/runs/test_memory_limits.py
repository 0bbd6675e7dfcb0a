"""Memory of a run: one row of 100,000 words, and a limit that the operating system enforces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
name: parts
instruction: Decide.
input: "{{ text }}"
id: id
answer: {kind: label, labels: [a, b, c]}
"""
MAX_RISE_MB = 500
HUGE_ROW = """
import json, sys
from pathlib import Path
import medtask
from medtask.engines.fake import FakeEngine
from medtask.hardware import measure_peak_memory

folder = Path(sys.argv[1])
task = medtask.load_task(folder)
texts = [f"cut {row}" for row in range(999)]
peaks, answers = [], []
for huge in ([], ["fracture " * 100_000]):
    rows = [{"id": str(row), "text": text} for row, text in enumerate([*texts, *huge])]
    out = folder / f"out-{len(huge)}"
    medtask.run(task, FakeEngine(), rows, out=out, baselines=False)
    peaks.append(measure_peak_memory()["memory"] >> 20)
    answers.append((out / "answers.csv").read_text().splitlines()[:1000])
print(json.dumps([peaks, answers[0] == answers[1]]))
"""
LIMITED = """
import resource, sys
from pathlib import Path
import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError

class GrowingEngine(FakeEngine):
    def score_batch(self, batch):
        if self.prompt_count > 20:
            bytearray(2**40)  # more than any machine has
        return super().score_batch(batch)

folder = Path(sys.argv[1])
task = medtask.load_task(folder)
rows = [{"id": str(row), "text": f"cut {row}"} for row in range(60)]
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
try:
    medtask.run(task, GrowingEngine(batch=8), rows, out=folder / "out", baselines=False)
except EngineError as error:
    assert error.fix
    engine = FakeEngine()
    result = medtask.run(task, engine, rows, out=folder / "out", baselines=False)
    assert result.new_answers <= 40, result.new_answers
    sys.exit(error.exit_code)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are Linux's"),
]


def run_script(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "task.yaml").write_text(TASK)
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_row_of_100_000_words_costs_little_memory_and_changes_no_other_row(
    tmp_path: Path,
) -> None:
    done = run_script(tmp_path, HUGE_ROW)
    assert done.returncode == 0, done.stderr
    (before, after), equal = json.loads(done.stdout)
    assert equal
    assert after - before <= MAX_RISE_MB


def test_a_run_at_the_limit_of_its_memory_ends_as_an_engine_error_and_loses_nothing(
    tmp_path: Path,
) -> None:
    done = run_script(tmp_path, LIMITED)
    assert done.returncode == 5, done.stderr
