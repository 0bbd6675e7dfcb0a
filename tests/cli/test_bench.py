from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command_line import RunCommand


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_models_are_shown_side_by_side_with_the_chosen_size(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("bench", "surgery", "--models", "fake:,fake:seed=3", "--rows", 3)
    assert outcome.code == 0
    first, *lines = outcome.out.splitlines()
    assert first == "surgery: procedures.csv, 5 rows"
    assert sum("measured on 3 rows" in line for line in lines) == 2
    assert sum("rows/s" in line and "memory" in line for line in lines) == 2
    assert sum("used by runs of this task" in line for line in lines) == 2
    assert sum("a full run: 3 prompts, " in line for line in lines) == 2
    assert "Loading fake:seed=3" in outcome.err
    assert "rows/s" in outcome.err


def test_the_document_and_the_picture_are_written(
    medtask: RunCommand, project_folder: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    outcome = medtask(
        "bench", "surgery", "--model", "fake:", "--json", "--quiet", "--out", "curve.svg"
    )
    assert outcome.code == 0
    assert outcome.err == ""
    document = json.loads(outcome.out)
    assert document["complete"] is True
    assert [point["size"] for point in document["models"][0]["points"]] == [16]
    assert "<svg" in Path("curve.svg").read_text()


def test_other_pictures_are_refused(medtask: RunCommand, project_folder: Path) -> None:
    outcome = medtask("bench", "surgery", "--model", "fake:", "--out", "curve.pdf")
    assert outcome.code == 2
    assert "use a name that ends in .svg or .png, such as curve.svg" in outcome.err


def test_an_interrupted_command_shows_its_measurements_within_seconds(
    project_folder: Path,
) -> None:
    rows = "".join(f"B{row},Stent {row},staging\n" for row in range(200))
    Path("procedures.csv").write_text("case_id,procedure,purpose\n" + rows)
    command = [sys.executable, "-m", "medtask", "bench", "surgery", "--rows", "100"]
    process = subprocess.Popen(
        [*command, "--model", "fake:ms_per_row=10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stderr
    for line in process.stderr:
        if "rows/s" in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert "rows/s" in shown
    assert "Stopped: the measurements are not complete, and no size is chosen." in shown
