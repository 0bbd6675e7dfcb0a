"""Processor time and speed of a run in one process, in shards, and with several workers.

    python benchmarks/shards.py --rows 2000 --model minilm [--shards 16] [--workers 1,2]

Times are user and system time of a process and its children, which depend less on other load than
elapsed time. Start-up is measured by the same command over 16 rows, and subtracted. The rows are
those of benchmarks/scale.py, without repeats.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scale import _TASK, make_table

_START_ROWS = 16


def measure(words: list[str]) -> tuple[float, float]:
    """Processor seconds and elapsed seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "medtask", *words, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu_s, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--workers", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    ways = {"one process": [], f"{options.shards} shards": ["--shards", str(options.shards)]}
    for workers in options.workers.split(","):
        ways[f"{workers} workers"] = ["--workers", workers]
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.yaml").write_text(_TASK)
        table = folder / "rows.parquet"
        make_table(table, options.rows, 0.0)
        for number, (way, words) in enumerate(ways.items()):
            command = ["run", str(folder), str(table), "--model", options.model, *words]
            start, run = (
                measure([*command, "--limit", str(rows), "--out", str(folder / f"{number}-{rows}")])
                for rows in (_START_ROWS, options.rows)
            )
            figure = {
                "run": way,
                "cpu_s": round(run[0], 2),
                "start_cpu_s": round(start[0], 2),
                "cpu_ms_per_row": round(1000 * (run[0] - start[0]) / options.rows, 3),
                "rows_per_s": round(options.rows / max(0.001, run[1] - start[1]), 1),
            }
            figures.append(figure)
            print(json.dumps(figure), flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
