"""How long a large table takes on many workers: a cost model, fitted here, and a simulation.

    python benchmarks/scale_model.py fit [--model smollm2-135m] [--rows 40]
    python benchmarks/scale_model.py simulate --rows 1e7 --workers 16 --tokens-per-s 7000 [...]
    python benchmarks/scale_model.py table

`fit` measures processor time on one core of this machine: the seconds per row at several text
lengths (a straight line over tokens), the start of the model, and medtask's own work per row. It
then predicts rows of a length that the fit has not seen, and measures them. `simulate` gives the
shards to workers, with the differences in speed and the failures of real clusters. `table` is the
table of benchmarks/scale.md. Rates of GPUs are assumptions of the caller: none is measured here.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Workload:
    """The rows. Texts are drawn from ``distinct_texts`` ones, with equal chances."""

    rows: float
    own_tokens: float = 60.0  # of a row's text and label, after the shared prompt
    distinct_texts: float = math.inf
    student_share: float = 0.0  # rows that the student of a cascade answers

    def count_asked(self, rows: float) -> float:
        """How many of ``rows`` rows have different texts: equal ones are asked once."""
        if math.isinf(self.distinct_texts):
            return rows
        return self.distinct_texts * -math.expm1(-rows / self.distinct_texts)


@dataclass(frozen=True)
class Costs:
    """Seconds of one worker, and of the process that merges."""

    tokens_per_s: float
    row_s: float = 0.000136  # prompts, deciding, ledger (benchmarks/scale.py)
    student_row_s: float = 0.0005
    start_s: float = 60.0
    check_row_s: float = 0.000011  # reading and checking the table, by `submit` and by the merge
    merge_row_s: float = 0.00025  # prompts are built again, tables and report are written

    def answer_s(self, work: Workload, rows: float) -> float:
        """Seconds for a shard of ``rows`` rows."""
        asked = work.count_asked(rows)
        model = asked * (1 - work.student_share) * work.own_tokens / self.tokens_per_s
        return model + rows * self.row_s + asked * work.student_share * self.student_row_s


@dataclass(frozen=True)
class Cluster:
    """The workers, and what goes wrong."""

    workers: int
    shards: int
    speed_spread: float = 0.1  # standard deviation of the logarithm of workers' speeds
    hours_between_failures: float = 2000.0  # of one worker
    requeue_s: float = 120.0
    model_gb: float = 0.0
    disk_gb_per_s: float = 2.0  # of the shared disk that all workers load the model from
    one_job_per_shard: bool = False  # Slurm: each shard starts a process; Ray: actors are kept


@dataclass(frozen=True)
class Forecast:
    """Hours of each part; ``worker_hours`` are paid for, ``useful`` is their share with answers."""

    answer_h: float
    first_done_h: float
    check_h: float
    merge_h: float
    worker_hours: float
    useful: float
    failures: int

    @property
    def total_h(self) -> float:
        return self.check_h + self.answer_h + self.merge_h


def simulate(work: Workload, costs: Costs, cluster: Cluster, seed: int = 0) -> Forecast:
    """Give each shard to the worker that is free first."""
    dice = random.Random(seed)
    speeds = [dice.lognormvariate(0.0, cluster.speed_spread) for _ in range(cluster.workers)]
    at_once = min(cluster.workers, cluster.shards)
    load_s = costs.start_s + cluster.model_gb * at_once / cluster.disk_gb_per_s
    shard_s = costs.answer_s(work, work.rows / cluster.shards)
    free = [(load_s, worker) for worker in range(at_once)]
    heapq.heapify(free)
    ends, busy, failures = [], at_once * load_s, 0
    for number in range(cluster.shards):
        now, worker = heapq.heappop(free)
        if cluster.one_job_per_shard and number >= at_once:
            # Later jobs do not start together, and have the disk for themselves.
            start = costs.start_s + cluster.model_gb / cluster.disk_gb_per_s
            now, busy = now + start, busy + start
        left = shard_s / speeds[worker]
        while (failure := dice.expovariate(1 / (cluster.hours_between_failures * 3600))) < left:
            # The ledger keeps what was answered: only the start is paid again.
            left -= failure
            pause = cluster.requeue_s + costs.start_s
            now, busy, failures = now + failure + pause, busy + failure + pause, failures + 1
        now, busy = now + left, busy + left
        ends.append(now)
        heapq.heappush(free, (now, worker))
    last = max(ends)
    return Forecast(
        answer_h=last / 3600,
        first_done_h=min(ends) / 3600,
        check_h=work.rows * costs.check_row_s / 3600,
        merge_h=work.rows * (costs.check_row_s + costs.merge_row_s) / 3600,
        worker_hours=cluster.workers * last / 3600,
        useful=cluster.shards * shard_s / (cluster.workers * last),
        failures=failures,
    )


def fit_line(tokens: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds per row and tokens per second, by least squares."""
    slope, intercept = np.polyfit(np.asarray(tokens), np.asarray(seconds), 1)
    return float(intercept), float(1 / slope)


WORDS = ("resection", "of", "the", "left", "colon", "with", "primary", "anastomosis", "biopsy")
LENGTHS, OTHER_LENGTH = (4, 12, 32), 20  # words of a row


def fit(model: str, rows: int) -> None:
    """Measure the costs of a model on one core, and test the fit on another length."""
    import medtask
    from medtask.tasks.load import load_task

    task = replace(load_task("examples/surgery_purpose"), examples=(), id_column=None)
    column = "procedure"
    dice = random.Random(0)
    started = time.process_time()
    engine = medtask.load_model(model, dtype="float32", threads=1)
    list(medtask.predict(task, engine, [{column: "warm up"}]))
    start_s = time.process_time() - started

    def measure(length: int) -> tuple[float, float]:
        texts = [" ".join(dice.choices(WORDS, k=length)) for _ in range(rows)]
        before = time.process_time()
        answers = list(medtask.predict(task, engine, [{column: text} for text in texts]))
        seconds = (time.process_time() - before) / rows
        read = sum(one.tokens_read for one in answers) / rows
        print(f"  {length:4} words: {read:6.1f} tokens a row, {1000 * seconds:7.2f} ms", flush=True)
        return read, seconds

    print(f"{model}, {rows} rows of each length, one core")
    points = [measure(length) for length in LENGTHS]
    row_s, rate = fit_line(*zip(*points, strict=True))
    print(f"fit: {1000 * row_s:.2f} ms a row, and {rate:.0f} tokens/s; start {start_s:.1f} s")
    read, seconds = measure(OTHER_LENGTH)
    predicted = row_s + read / rate
    found = f"predicted {1000 * predicted:.2f} ms, measured {1000 * seconds:.2f} ms"
    print(f"{OTHER_LENGTH} words: {found}")


# Tokens per second of one H100 in bfloat16: 40 % of the peak, at 2 operations for each parameter
# and token. They are assumptions and were not measured.
ASSUMED_RATES = {
    "4b": 0.4 * 990e12 / (2 * 4e9),
    "27b": 0.4 * 990e12 / (2 * 27e9),
}


def print_table() -> None:
    """The table of benchmarks/scale.md."""
    print("rows | model | workers x shards | start | answers | merge | worker hours | useful")
    for rows, grids in ((1e7, ((8, 256), (64, 1000))), (1e9, ((64, 10_000), (512, 10_000)))):
        for name, rate in ASSUMED_RATES.items():
            gigabytes = 54.0 if name == "27b" else 8.0
            for workers, shards in grids:
                work = Workload(rows, distinct_texts=0.5 * rows)
                cluster = Cluster(workers, shards, model_gb=gigabytes)
                costs = Costs(rate)
                found = simulate(work, costs, cluster)
                start = costs.start_s + gigabytes * workers / cluster.disk_gb_per_s
                print(
                    f"{rows:.0e} | {name} | {workers} x {shards} | {start / 60:.0f} min | "
                    f"{found.answer_h:.1f} h | {found.merge_h:.1f} h | {found.worker_hours:.0f} | "
                    f"{found.useful:.0%}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    fitting = verbs.add_parser("fit")
    fitting.add_argument("--model", default="smollm2-135m")
    fitting.add_argument("--rows", type=int, default=40)
    verbs.add_parser("table")
    one = verbs.add_parser("simulate")
    one.add_argument("--rows", type=float, required=True)
    one.add_argument("--workers", type=int, required=True)
    one.add_argument("--shards", type=int, help="default: eight for each worker")
    one.add_argument("--tokens-per-s", type=float, required=True, help="of one worker")
    one.add_argument("--own-tokens", type=float, default=Workload.own_tokens)
    one.add_argument("--distinct-texts", type=float, default=math.inf)
    one.add_argument("--student-share", type=float, default=0.0)
    one.add_argument("--start-s", type=float, default=Costs.start_s)
    one.add_argument("--model-gb", type=float, default=0.0)
    one.add_argument("--speed-spread", type=float, default=Cluster.speed_spread)
    one.add_argument("--slurm", action="store_true", help="each shard starts a process")
    options = parser.parse_args()
    if options.verb == "fit":
        fit(options.model, options.rows)
    elif options.verb == "table":
        print_table()
    else:
        found = simulate(
            Workload(
                options.rows, options.own_tokens, options.distinct_texts, options.student_share
            ),
            Costs(options.tokens_per_s, start_s=options.start_s),
            Cluster(
                options.workers,
                options.shards or 8 * options.workers,
                speed_spread=options.speed_spread,
                model_gb=options.model_gb,
                one_job_per_shard=options.slurm,
            ),
        )
        print(f"checking the table  {found.check_h:9.2f} h")
        print(
            f"answers             {found.answer_h:9.2f} h, first shard {found.first_done_h:.2f} h"
        )
        print(f"merge               {found.merge_h:9.2f} h")
        print(f"workers             {found.worker_hours:9.0f} h, {found.useful:.0%} with answers")
        print(f"failures            {found.failures:9}")


if __name__ == "__main__":
    main()
