"""The cost of ten yes/no questions about a record, compared with one.

    python benchmarks/labels.py --data ../shared/data [--rows 96] [--rounds 6]

The labels of hallmarks_of_cancer share the abstract, which is read once. The comparison has the
same prompts with a single question, whose time is that of reading the abstract. Rounds alternate;
the result is the median of their ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Label, MultiLabel, Task


def read_prompts(folder: Path, rows: int) -> list[Prompt]:
    labels = tuple(
        Label(name, "", name) for name in json.loads((folder / "labels.json").read_text())
    )
    instruction = "Decide which hallmarks of cancer the abstract tells of."
    task = Task(
        folder.name,
        instruction,
        "{{ text }}",
        labels=labels,
        answer_spec=MultiLabel(),
        fingerprint="benchmark",
    )
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [
            Record(row["id"], {"text": row["text"]})
            for row, _ in zip(map(json.loads, lines), range(rows), strict=False)
        ]
    return [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]


def keep_first_branch(prompt: Prompt) -> Prompt:
    """The same prompt with one question: nothing but the abstract is read."""
    return replace(prompt, branches=(Branch("", prompt.branches[0].candidates),))


def time_scoring(engine: HfEngine, prompts: Sequence[Prompt]) -> tuple[float, int]:
    """Seconds and tokens read."""
    start = time.perf_counter()
    tokens = sum(
        scores.tokens_read for scores in engine.score(prompts) if isinstance(scores, Scores)
    )
    return time.perf_counter() - start, tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with hallmarks_of_cancer")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    engine = load_hf("smollm2-135m", LoadOptions(dtype="float32", device="cpu"))
    prompts = read_prompts(options.data / "hallmarks_of_cancer", options.rows)
    size = len(prompts) // options.rounds
    time_scoring(engine, prompts[:4])
    seconds, tokens = [], []
    for number in range(options.rounds):
        round_prompts = prompts[number * size : (number + 1) * size]
        variants = [round_prompts, [keep_first_branch(prompt) for prompt in round_prompts]]
        # Whoever goes second has the warmer machine: the sides take turns.
        order = (0, 1) if number % 2 else (1, 0)
        found = {side: time_scoring(engine, variants[side]) for side in order}
        seconds.append(found[0][0] / found[1][0])
        tokens.append(found[0][1] / found[1][1])
        print(
            f"round {number + 1}: {found[0][0] / size * 1000:.0f} and "
            f"{found[1][0] / size * 1000:.0f} ms a row, {seconds[-1]:.2f} x"
        )
    result = {
        "rows": size * options.rounds,
        "labels": len(prompts[0].branches),
        "times_as_long": round(statistics.median(seconds), 2),
        "times_as_many_tokens": round(statistics.median(tokens), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
