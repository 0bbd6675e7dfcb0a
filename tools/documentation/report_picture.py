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

from documentation.example_tables import write_example_tables
from documentation.pictures import find_chromium, write_small_picture

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "assets" / "report.png"
WIDTH, HEIGHT = 1000, 830  # pixels of the browser's window


def write_report(folder: Path) -> Path:
    """Run the commands of the tutorial; returns the report."""
    write_example_tables(folder, ("procedures.xlsx", "labelled.csv", "surgery-purpose/task.yaml"))
    for line in (
        "train surgery-purpose labelled.csv --method linear --out models/surgery",
        "run surgery-purpose --sheet Operations --model models/surgery --out run",
        "evaluate run --max-error 0.1",
    ):
        subprocess.run([sys.executable, "-m", "medtask", *line.split()], cwd=folder, check=True)
    return folder / "run" / "report.html"


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
