"""Measure a loaded model that is asked one new row at a time, as a server asks it.

    python benchmarks/warm.py --data ../shared/data [--rows 60]

Each row is answered alone and then read by one plain forward pass over its own tokens, which is
the work that cannot be avoided. The rows before it have left the task's shared prefix in the cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from imaging_orders import make_imaging_orders
from speed import BenchmarkModels, label_with_medtask, load_models, read_dataset

from medtask.records import Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task


def time_rows(
    models: BenchmarkModels, task: Task, records: Sequence[Record], warm_up: int
) -> list[tuple[int, float, float]]:
    """Returns each row's tokens, and the seconds of its answer and of the plain pass."""
    prompts = [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    label_with_medtask(models, prompts[:warm_up])
    times = []
    for prompt in prompts[warm_up:]:
        start = time.perf_counter()
        read = label_with_medtask(models, [prompt])
        answered = time.perf_counter() - start
        tokens = torch.randint(0, 40_000, (1, read))
        with torch.inference_mode():
            start = time.perf_counter()
            models.transformers_model(input_ids=tokens, use_cache=False, logits_to_keep=1)
            times.append((read, answered, time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=60)
    options = parser.parse_args()
    models = load_models("auto")
    warm_up = 8
    print("| set | tokens read per row | an answer (median) | the plain pass | ratio, 90 % |")
    for task, records in (
        read_dataset(options.data / "icd9_procedures", options.rows + warm_up),
        make_imaging_orders(options.rows + warm_up),
        read_dataset(options.data / "mts_dialog_sections", options.rows + warm_up),
    ):
        times = time_rows(models, task, records, warm_up)
        read = statistics.mean(one[0] for one in times)
        answer, plain = (statistics.median(one[side] for one in times) for side in (1, 2))
        ratios = sorted(one[1] / one[2] for one in times)
        print(
            f"| {task.name} | {read:.0f} | {answer * 1000:.0f} ms | {plain * 1000:.0f} ms | "
            f"{statistics.median(ratios):.2f} ({ratios[int(0.9 * len(ratios))]:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
