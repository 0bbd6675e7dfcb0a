"""Time and memory of a run over many rows, without the time of a model.

    python benchmarks/scale.py --rows 100000,1000000 [--format csv|parquet] [--gold] [--repeats 0.2]

The rows are answered by the `fake` engine, so what is measured is medtask's own work: reading the
table, prompts, decisions, the ledger, the tables and the report. Every run and every resumed run is
a separate process. Times are user and system time of that process: on a shared machine they vary
less than elapsed time, which is shown beside them. Baselines, which have a time limit, are left
out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl

import medtask
from medtask.runs.progress import NullRunObserver

_TASK = """
name: scale
instruction: Decide the main purpose of the cancer operation.
input: "{{ procedure }}"
id: case_id
answer:
  kind: label
  labels:
    curative resection: removes the tumour with intent to cure
    palliative: relieves symptoms
    diagnostic: takes tissue to find or stage a tumour
    reconstructive: restores form or function
    preventive: removes tissue at risk
    other: none of these
"""
_PURPOSES = (
    *("curative resection", "palliative", "diagnostic", "reconstructive", "preventive", "other"),
)
_VERBS = (
    *("resection of", "biopsy of", "excision of", "bypass of", "reconstruction of"),
    *("laparoscopic removal of", "open exploration of", "drainage of"),
)
_SITES = (
    *("the sigmoid colon", "the left breast", "an axillary lymph node", "the right lung"),
    *("the pancreatic head", "the lower lip", "the stomach", "the liver, segment IV"),
)
_FINDINGS = (
    *("for a tumour of", "after neoadjuvant treatment of a lesion of", "for suspected relapse at"),
    *("because of obstruction by a mass of", "with frozen section of a nodule of"),
)
_PART_ROWS = 50_000


class _PhaseClock(NullRunObserver):
    """Measures processor time, elapsed time and peak memory at the ends of a run's phases."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self.memory_mb: list[tuple[int, float]] = []
        self._cpu, self._elapsed = time.process_time(), time.monotonic()

    def on_start(self, rows: int, done: int) -> None:
        self.end_phase("prepare")

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        if done // 100_000 > len(self.memory_mb):
            self.memory_mb.append((done, _read_memory_mb("VmRSS")))

    def on_finish(self) -> None:
        self.end_phase("answer")

    def end_phase(self, name: str) -> None:
        cpu, elapsed = time.process_time(), time.monotonic()
        self.phases[name] = {
            "cpu_s": round(cpu - self._cpu, 2),
            "elapsed_s": round(elapsed - self._elapsed, 2),
            "peak_mb": _read_memory_mb("VmHWM"),
        }
        self._cpu, self._elapsed = cpu, elapsed


def make_table(path: Path, rows: int, repeats: float, seed: int = 0) -> None:
    """Write a table in which a share of ``repeats`` of the rows repeats an earlier text."""
    draws = random.Random(seed)
    with ExitStack() as stack:
        parts = []
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        for start in range(0, rows, _PART_ROWS):
            count = min(_PART_ROWS, rows - start)
            parts.append(folder / f"{start:09}.parquet")
            pl.DataFrame(list(_make_rows(draws, start, count, repeats))).write_parquet(parts[-1])
        frame = pl.scan_parquet(parts)
        frame.sink_csv(path) if path.suffix == ".csv" else frame.sink_parquet(path)


def _make_rows(
    draws: random.Random, start: int, count: int, repeats: float
) -> Iterator[dict[str, object]]:
    texts: list[str] = []
    for number in range(start, start + count):
        if texts and draws.random() < repeats:
            text = draws.choice(texts)
        else:
            text = (
                f"{draws.choice(_VERBS)} {draws.choice(_SITES)} {draws.choice(_FINDINGS)} "
                f"{number % 90 + 5} mm, {draws.choice(_SITES)} spared, case {number}"
            )
        texts.append(text)
        yield {
            "case_id": f"C{number:08}",
            "patient": f"P{number // 3:08}",
            "procedure": text,
            "surgeon": f"surgeon {draws.randrange(400)}",
            "minutes": draws.randrange(20, 600),
            "purpose": draws.choice(_PURPOSES),
        }


def measure_run(folder: Path, table: Path, gold: str | None) -> dict[str, object]:
    """Start or resume the run of ``folder`` in this process."""
    clock = _PhaseClock()
    result = medtask.run(
        medtask.load_task(folder / "task.yaml"),
        medtask.load_model("fake:"),
        table,
        out=folder / "run",
        gold=gold,
        baselines=False,
        progress=clock,
    )
    clock.end_phase("tables and report")
    return {
        "rows": result.rows,
        "new_answers": result.new_answers,
        "phases": clock.phases,
        "memory_mb": clock.memory_mb,
    }


def _run_process(folder: Path, table: Path, gold: str | None) -> dict[str, object]:
    command = [sys.executable, __file__, "--worker", str(folder), str(table), gold or ""]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(finished.stdout))


def _read_memory_mb(name: str) -> float:
    """The resident memory of this process, or its peak; `getrusage` includes the parent's peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return round(int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024, 1)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker_folder, worker_table, gold_column = sys.argv[2:]
        json.dump(
            measure_run(Path(worker_folder), Path(worker_table), gold_column or None), sys.stdout
        )
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="100000,200000", help="numbers of rows, with commas")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--repeats", type=float, default=0.0, help="share of repeated texts")
    parser.add_argument("--gold", action="store_true", help="evaluate against a gold column")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    gold = "purpose" if options.gold else None
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            table = folder / f"rows.{options.format}"
            (folder / "task.yaml").write_text(_TASK, encoding="utf-8")
            make_table(table, rows, options.repeats)
            for kind in ("run", "resumed run"):
                print(json.dumps({"kind": kind, **_run_process(folder, table, gold)}), flush=True)


if __name__ == "__main__":
    main()
