"""Baselines of a run are computed once, kept beside the answers, and do not endanger the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtask.engines.fake import FakeEngine
from medtask.runs.baselines import (
    BASELINES_FILE,
    MAX_SAMPLES,
    KeptPredictions,
    make_baseline_settings,
)
from medtask.runs.comparison import compare
from medtask.runs.evaluation import evaluate
from medtask.runs.local_run import Run, run
from medtask.tasks.task import Task

KEY = "0" * 64


def make_rows(rows: int = 90) -> list[dict[str, str]]:
    names = ("curative", "palliative", "staging")
    return [
        {
            "case_id": f"c-{row}",
            "procedure": f"secretword {names[row % 3]} resection {row % 7}",
            "purpose": names[row % 3],
        }
        for row in range(rows)
    ]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that MiniLM was asked to encode; its vectors are those of letters."""
    texts: list[str] = []

    def encode(new: list[str]) -> Any:
        texts.extend(new)
        return np.array([[text.count(letter) for letter in "cpsu"] for text in new], dtype=float)

    monkeypatch.setattr("medtask.similarity.encode_texts", encode)
    return texts


def run_task(task: Task, out: Path, **options: Any) -> Run:
    model = FakeEngine(prefers={"curative": 0.9})
    return run(task, model, make_rows(), out=out, gold="purpose", **options)


def get_figures(baselines: Any) -> dict[str, Any]:
    return {baseline.name: baseline.to_json() for baseline in baselines}


def test_a_second_report_of_the_same_rows_computes_nothing(
    task: Task, tmp_path: Path, encoded: list[str]
) -> None:
    first = run_task(task, tmp_path / "out")
    n_encoded = len(encoded)
    assert n_encoded > 20
    again = run_task(task, tmp_path / "out")
    evaluation = evaluate(tmp_path / "out", gold="purpose", out=tmp_path / "elsewhere")
    assert len(encoded) == n_encoded
    assert get_figures(first.baselines) == get_figures(again.baselines)
    assert get_figures(first.baselines) == get_figures(evaluation.baselines)
    page = (tmp_path / "elsewhere" / "report.html").read_text()
    assert "MiniLM" in page


def test_a_comparison_uses_what_its_runs_have_kept(
    task: Task, tmp_path: Path, encoded: list[str]
) -> None:
    one = run_task(task, tmp_path / "one")
    other = run(task, FakeEngine(), make_rows(), out=tmp_path / "two", gold="purpose")
    n_encoded = len(encoded)
    comparison = compare([tmp_path / "two", tmp_path / "one"], gold="purpose")
    assert len(encoded) == n_encoded
    ranked = {line.name: line for line in comparison.leaderboard.entries}
    for baseline in one.baselines:
        assert ranked[baseline.name].figures == baseline.metrics
    assert other.metrics["accuracy"] == ranked["two"].figures["accuracy"]


def test_what_is_kept_is_private_and_has_no_text(
    task: Task, tmp_path: Path, encoded: list[str]
) -> None:
    run_task(task, tmp_path / "out")
    path = tmp_path / "out" / BASELINES_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secretword" not in path.read_text()
    (sample,) = json.loads(path.read_text())["samples"].values()
    assert set(sample["methods"]) == {"TF-IDF", "MiniLM"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"curative"', '"staging"', 1),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: json.dumps({"format": 1, "samples": [1, 2]}),
        lambda text: json.dumps(
            {"format": 1, "samples": {next(iter(json.loads(text)["samples"])): 1}}
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_computed_again(
    damage: Callable[[str], str], task: Task, tmp_path: Path, encoded: list[str]
) -> None:
    first = run_task(task, tmp_path / "out")
    path, n_encoded = tmp_path / "out" / BASELINES_FILE, len(encoded)
    path.write_text(damage(path.read_text()))
    again = run_task(task, tmp_path / "out")
    assert len(encoded) == 2 * n_encoded
    assert get_figures(again.baselines) == get_figures(first.baselines)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store = KeptPredictions([tmp_path / "real"])
    store.write(KEY, {"MiniLM": ["curative", ("a", "b")]})
    assert store.read(KEY) == {"MiniLM": ["curative", ("a", "b")]}
    (tmp_path / "linked").mkdir()
    link = tmp_path / "linked" / BASELINES_FILE
    link.symlink_to(tmp_path / "real" / BASELINES_FILE)
    linked = KeptPredictions([tmp_path / "linked"])
    assert linked.read(KEY) == {}
    linked.write("1" * 64, {"MiniLM": [1]})
    assert not link.is_symlink()
    assert store.read("1" * 64) == {}


def test_a_folder_keeps_the_newest_samples_only(tmp_path: Path) -> None:
    store = KeptPredictions([tmp_path, tmp_path / "second"])
    for number in range(MAX_SAMPLES + 2):
        store.write(f"{number:064}", {"TF-IDF": [number]})
    kept = [number for number in range(MAX_SAMPLES + 2) if store.read(f"{number:064}")]
    assert kept == list(range(2, MAX_SAMPLES + 2))


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    KeptPredictions([tmp_path]).write(KEY, {"TF-IDF": [1]})
    tmp_path.chmod(0o700)
    assert KeptPredictions([tmp_path]).read(KEY) == {}


@pytest.mark.parametrize(("asked", "seconds"), [(0.5, 60), (1234.5, 1234.5), (None, 60)])
def test_baselines_may_take_as_long_as_asking_and_at_least_a_minute(
    asked: float | None, seconds: float
) -> None:
    assert make_baseline_settings([], {"asking_seconds": asked}, None).seconds == seconds
    assert make_baseline_settings([], {}, None).seconds == 60


def test_a_signal_during_baselines_leaves_a_complete_run_that_says_so(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before: list[str] = []

    def interrupt(texts: list[str]) -> Any:
        before.extend((out / name).read_text() for name in ("manifest.json", "report.html"))
        os.kill(os.getpid(), signal.SIGINT)
        return np.ones((len(texts), 2))

    monkeypatch.setattr("medtask.similarity.encode_texts", interrupt)
    result = run_task(task, out)
    assert (result.state, result.exit_code) == ("finished", 0)
    assert json.loads(before[0])["state"] == "finished"  # a kill here would have been as harmless
    assert "the run was stopped before" in before[1]
    notes = {baseline.name: baseline.note for baseline in result.baselines}
    assert notes == {"TF-IDF": "", "MiniLM": "stopped by a signal", "majority": ""}
    assert "a signal stopped the comparison with simple methods" in result.notes[-1]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["state"], manifest["timing"]["sessions"]) == ("finished", 1)
    assert "stopped by a signal" in (out / "report.html").read_text()


_STUCK_RUN = """
import hashlib, signal, sys
from medtask import similarity
from medtask.cli.main import main

def encode(texts):
    print("encoding", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

similarity.encode_texts = encode
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["medtask", "run", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_signal_during_a_computation_that_does_not_return_leaves_a_complete_run(
    task_folder: Path, tmp_path: Path
) -> None:
    table, out = tmp_path / "rows.csv", tmp_path / "out"
    lines = [",".join(row.values()) for row in make_rows()]
    table.write_text("\n".join(["case_id,procedure,purpose", *lines]) + "\n")
    options = ["--model", "fake:", "--gold", "purpose", "--out", out]
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK_RUN, task_folder, table, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("encoding" in line for line in process.stderr)
        time.sleep(1)  # until it is inside the function
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert time.monotonic() - began < 10  # 4 seconds, and room for a busy machine
    assert process.returncode == 130
    assert json.loads((out / "manifest.json").read_text())["state"] == "finished"
    assert "the run was stopped before" in (out / "report.html").read_text()
    assert evaluate(out, baselines=False).n == 90


def test_progress_is_reported_and_baselines_can_be_left_out(
    task: Task, tmp_path: Path, encoded: list[str]
) -> None:
    events: list[tuple[str, int, int]] = []
    run_task(task, tmp_path / "out", baselines=False)
    assert not (tmp_path / "out" / BASELINES_FILE).exists()
    assert not encoded
    evaluate(tmp_path / "out", gold="purpose", progress=lambda *event: events.append(event))
    assert ("TF-IDF", 0, 90) in events
    assert events[-1] == ("MiniLM", 90, 90)
