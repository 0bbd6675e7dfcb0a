"""Speed and processor time of a run in one process, in shards, with workers, Ray, Spark, Slurm.

    python benchmarks/shards.py --rows 2000 --model minilm [--shards 16] [--workers 1,2]
    python benchmarks/shards.py --rows 1500 --model minilm --ways process,workers,ray,spark

Start-up is measured by the same command over 16 rows, and subtracted. Processor time is user and
system time of a process and its children, which depends less on other load than elapsed time; the
workers of Ray and Slurm are not children. ``slurm`` submits one shard for each worker to the
cluster of this machine. The rows are those of benchmarks/scale.py, without repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scale import _TASK, make_table

import medtask

_START_ROWS = 16


_SPARK = """
import sys
from pyspark.sql import SparkSession
import medtask.spark
task, table, model, rows, workers, out = sys.argv[1:]
builder = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false")
rows = builder.getOrCreate().read.parquet(table).limit(int(rows)).repartition(4 * int(workers))
medtask.spark.predict(rows, task, model).write.parquet(out)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Processor seconds and elapsed seconds of a command of Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"PYSPARK_PYTHON": sys.executable, **os.environ},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu_s, time.monotonic() - started


def measure_slurm(command: list[str], out: Path) -> tuple[float, float]:
    """As `measure`, from the submission until the shards are merged."""
    started = time.monotonic()
    cpu_s, _ = measure(command)
    while not medtask.status(out).merged:
        time.sleep(0.1)
    return cpu_s, time.monotonic() - started


@dataclass(frozen=True)
class Work:
    """What is answered in each way."""

    folder: Path
    table: Path
    model: str

    def measure(self, way: str, number: int, rows: int) -> tuple[float, float]:
        """Processor seconds and elapsed seconds; ``number`` is that of shards or workers."""
        out = self.folder / f"{way}-{number}-{rows}"
        if way == "spark":
            words = [str(self.folder), str(self.table), self.model, str(rows), str(number)]
            return measure(["-W", "ignore", "-c", _SPARK, *words, str(out)])
        verb = "submit" if way == "slurm" else "run"
        command = ["-m", "medtask", verb, str(self.folder), str(self.table), "--model", self.model]
        command += ["--limit", str(rows), "--out", str(out)]
        if way == "slurm":
            words = ["--slurm", "--shards", str(number), "--threads", "1"]
            return measure_slurm([*command, *words], out)
        options = {
            "process": [],
            "shards": ["--shards", str(number)],
            "workers": ["--workers", str(number)],
            "ray": ["--ray", "local", "--ray-workers", str(number), "--ray-shards", str(number)],
        }
        return measure([*command, "--quiet", *options[way]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--workers", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--ways", default="process,shards,workers", help="with commas")
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    workers = [int(number) for number in options.workers.split(",")]
    numbers = {"process": [1], "shards": [options.shards], "workers": workers}
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.yaml").write_text(_TASK)
        work = Work(folder, folder / "rows.parquet", options.model)
        make_table(work.table, options.rows, 0.0)
        for way in options.ways.split(","):
            for number in numbers.get(way, workers[-1:]):
                start, run = (work.measure(way, number, n) for n in (_START_ROWS, options.rows))
                seconds = max(0.001, run[1] - start[1])
                figure = {
                    "run": f"{number} {way}",
                    "seconds": round(run[1], 2),
                    "start_seconds": round(start[1], 2),
                    "cpu_s": round(run[0], 2),
                    "start_cpu_s": round(start[0], 2),
                    "cpu_ms_per_row": round(1000 * (run[0] - start[0]) / options.rows, 3),
                    "rows_per_s": round(options.rows / seconds, 1),
                }
                figures.append(figure)
                print(json.dumps(figure), flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
