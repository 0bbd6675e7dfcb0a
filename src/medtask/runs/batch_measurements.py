"""Measurements of the speed and memory of an engine, by batch size."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtask.display import format_bytes, format_count
from medtask.engines.base import BatchSetting, Engine
from medtask.hardware import measure_peak_memory, reset_peak_memory
from medtask.records import Prompt
from medtask.runs.batch_sizes import generates
from medtask.runs.run_estimate import Speed, time_prompts
from medtask.tasks.task import Task

MAX_SECONDS = 60.0  # measurements are repeated within this time
MIN_ROUNDS, MAX_ROUNDS = 2, 3


@dataclass(frozen=True, slots=True)
class BatchSpeed:
    """The speed of one batch size.

    Attributes:
        size: The batch size; None if there is nothing to choose.
        speed: The fastest of the measurements; other programs on the machine only make it slower.
        memory_bytes: Peak memory of this process; None if not known.
        accelerator_bytes: Peak memory on the accelerator; None without one.
        rounds: The number of measurements.
    """

    size: int | None
    speed: Speed
    memory_bytes: int | None
    accelerator_bytes: int | None
    rounds: int = 1

    @property
    def rows_per_s(self) -> float:
        return self.speed.rows / max(self.speed.seconds, 1e-9)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens that are read per second; None if the engine does not count them."""
        tokens = self.speed.tokens
        return tokens / max(self.speed.seconds, 1e-9) if tokens else None

    @property
    def peak_bytes(self) -> int | None:
        """The peak memory that limits the batch: that of the accelerator, if there is one."""
        return self.accelerator_bytes or self.memory_bytes

    def add(self, other: BatchSpeed) -> BatchSpeed:
        """This size with one more measurement. The memory is that of the first, in which no larger
        batch came before.
        """
        faster = min(self, other, key=lambda one: one.speed.seconds)
        return replace(self, speed=faster.speed, rounds=self.rounds + 1)

    def describe(self, unit: str | None) -> str:
        """ "1,024 tokens: 22.1 rows/s, 1.1 GB"."""
        size = f"{format_count(self.size or 0, unit.rstrip('s'))}: " if unit else ""
        memory = f", {format_bytes(self.peak_bytes)}" if self.peak_bytes else ""
        return f"{size}{self.rows_per_s:,.1f} rows/s{memory}"

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain values."""
        return {
            "size": self.size,
            "rows_per_s": round(self.rows_per_s, 4),
            "tokens_per_s": self.tokens_per_s and round(self.tokens_per_s, 2),
            "memory_bytes": self.memory_bytes,
            "accelerator_bytes": self.accelerator_bytes,
            "rounds": self.rounds,
        }


def select_by_length(
    prompts: Sequence[tuple[Prompt, int]], rows: int, seed: int
) -> list[tuple[Prompt, int]]:
    """Select prompts, given with their tokens, so that long and short ones are represented.

    Returns:
        A random prompt of each of ``rows`` strata of equal numbers, in random order.
    """
    rng = random.Random(seed)  # noqa: S311 - the same seed gives the same rows
    ordered = sorted(prompts, key=lambda one: (one[1], len(one[0].text)))
    count = min(rows, len(ordered))
    edges = [len(ordered) * place // count for place in range(count + 1)]
    selected = [ordered[rng.randrange(edges[place], edges[place + 1])] for place in range(count)]
    rng.shuffle(selected)
    return selected


def list_sizes(setting: BatchSetting | None, prompts: Sequence[tuple[Prompt, int]]) -> list[int]:
    """The batch sizes to measure: those that the prompts fill, and the default."""
    if setting is None:
        return []
    total = len(prompts) if setting.unit == "rows" else sum(tokens for _, tokens in prompts)
    return sorted({setting.size, *(size for size in setting.sizes if size <= total)})


def measure_sizes(
    task: Task,
    engine: Engine,
    setting: BatchSetting | None,
    prompts: Sequence[tuple[Prompt, int]],
    on_measured: Callable[[BatchSpeed], None],
) -> None:
    """Ask the prompts with each batch size, in rounds of alternating order.

    ``on_measured`` receives each measurement. The engine's batch size is restored.
    """
    asked = [prompt for prompt, _ in prompts]
    sizes: Sequence[int | None] = list_sizes(setting, prompts) or [None]
    start = time.monotonic()
    time_prompts(task, engine, asked)  # reads the shared prefix, and what is done only once
    try:
        for number in range(MAX_ROUNDS):
            if number >= MIN_ROUNDS and time.monotonic() - start > MAX_SECONDS:
                break
            for size in sizes if number % 2 == 0 else reversed(sizes):
                if size is not None:
                    engine.set_batch_size(size, generates=generates(task))
                reset_peak_memory()
                speed = time_prompts(task, engine, asked)
                peaks = measure_peak_memory()
                on_measured(BatchSpeed(size, speed, peaks.get("memory"), peaks.get("accelerator")))
    finally:
        if setting:
            engine.set_batch_size(setting.size, generates=generates(task))
