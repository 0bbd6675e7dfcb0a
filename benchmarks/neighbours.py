"""Speed beside other programs: rows per second with 0, 1 and 2 busy processes, by how threads wait.

    python benchmarks/neighbours.py --data ../shared/data [--rows 64] [--rounds 5]

One process per way of waiting loads the built-in model. All of them answer the same rows in
interleaved rounds; the others sleep meanwhile. A neighbour is a process that multiplies matrices
with one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# By how threads wait: the environment of the process. GNU's OpenMP spins 300,000 times by default.
WAITS: dict[str, dict[str, str]] = {
    "as libraries do": {"GOMP_SPINCOUNT": "300000"},
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "asleep (medtask)": {},
}
_SPIN_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_NEIGHBOUR = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy
side = numpy.random.default_rng(0).random((400, 400))
while True:
    side @ side
"""


class Worker:
    """A process with a loaded model that answers the rows each time it is asked."""

    def __init__(self, data: Path, rows: int, environment: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in _SPIN_VARIABLES}
        command = [sys.executable, __file__, "--data", str(data), "--rows", str(rows), "--worker"]
        self.process = subprocess.Popen(
            command,
            env=kept | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def time_round(self) -> float:
        """Seconds of one round; the first call also waits until the model is loaded."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def answer_on_request(data: Path, rows: int) -> None:
    import medtask  # before torch, which `speed` imports

    engine = medtask.load_model("smollm2-135m", dtype="float32")
    from speed import read_dataset

    from medtask.records import Prompt
    from medtask.tasks.prompt import build_prompt

    task, records = read_dataset(data / "icd9_procedures", rows)
    prompts = [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in engine.score(prompts):
            pass
        print(time.perf_counter() - start, flush=True)


@contextmanager
def run_neighbours(count: int) -> Iterator[None]:
    neighbours = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) for _ in range(count)]
    time.sleep(1)
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer_on_request(arguments.data, arguments.rows)
        return
    workers = {
        name: Worker(arguments.data, arguments.rows, environment)
        for name, environment in WAITS.items()
    }
    for worker in workers.values():
        worker.time_round()
    print("| busy neighbours |", " | ".join(workers), "|")
    print("|---" * (len(workers) + 1) + "|")
    for count in range(3):
        rates: dict[str, list[float]] = {name: [] for name in workers}
        with run_neighbours(count):
            for _ in range(arguments.rounds):
                for name, worker in workers.items():
                    rates[name].append(arguments.rows / worker.time_round())
        cells = (f"{statistics.median(found):.1f} rows/s" for found in rates.values())
        print(f"| {count} |", " | ".join(cells), "|", flush=True)
    for worker in workers.values():
        worker.process.kill()
        worker.process.wait()


if __name__ == "__main__":
    main()
