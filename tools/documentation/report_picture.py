"""Write the picture of a report that the README shows.

    make report-picture

The report is that of docs/tutorials/accepted_table.md: 300 made-up operations, answered by a
linear model that learnt from 600 other rows. Needs Chromium and pillow.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from documentation.pictures import find_chromium, write_small_picture

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "assets" / "report.png"
WIDTH, HEIGHT = 1000, 830  # pixels of the browser's window


def write_report(folder: Path) -> Path:
    """Train on made-up rows, answer the example, and evaluate it; returns the report."""
    rows = folder / "labelled.csv"
    example = ROOT / "examples" / "surgery_purpose"
    script = str(ROOT / "examples" / "make_examples.py")
    options = ["surgery_purpose", "--split", "train", "--rows", "600", "--out", str(rows)]
    model, run = folder / "model", folder / "run"
    medtask = [sys.executable, "-m", "medtask"]
    for command in (
        [sys.executable, script, *options],
        [*medtask, "train", str(example), str(rows), "--method", "linear", "--out", str(model)],
        [*medtask, "run", str(example), "--model", str(model), "--out", str(run)],
        [*medtask, "evaluate", str(run), "--max-error", "0.1"],
    ):
        subprocess.run(command, check=True)
    return run / "report.html"


def write_picture(report: Path) -> None:
    """The top of a report as a small PNG."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"]
        command = [find_chromium(), *options, report.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        write_small_picture(shot, PICTURE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        write_picture(Path(sys.argv[1]) if len(sys.argv) > 1 else write_report(Path(work)))
