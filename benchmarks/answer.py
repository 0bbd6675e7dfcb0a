"""Free text, many rows at once, against the same model's `generate`: side by side in one run on
this machine.

    python benchmarks/answer.py --data ../shared/data [--rows 64] [--rounds 2] [--dtype float32]
    [--out answer.json]

Both sides get the same tokens, take the likeliest next one always, and stop at the same end tokens
or after 64 new ones, so they do the same work: the texts are compared. Shared machines are noisy,
so the sides take turns and the ratios matter.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speed import Bench, prepare

from medtask.hardware import inspect_machine
from medtask.records import Generated, Limits, Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import FreeText, Task

NEW_TOKENS = 64
LIMITS = Limits(NEW_TOKENS, loops=False)


def read_questions(folder: Path, rows: int) -> list[Prompt]:
    task = Task(
        "disease-qa",
        "Answer the question for a patient.",
        "{{ question }}",
        form=FreeText(NEW_TOKENS),
        fingerprint="benchmark",
    )
    with gzip.open(folder / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [
            Record(row["id"], {"question": row["question"]}) for row in map(json.loads, lines)
        ]
    prompts = [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    return prompts[:rows]


def write_with_medtask(bench: Bench, prompts: Sequence[Prompt], texts: dict[str, str]) -> int:
    results = [
        result for result in bench.engine.generate(prompts, LIMITS) if isinstance(result, Generated)
    ]
    texts.update({result.record_id: result.text for result in results})
    return sum(result.tokens for result in results)


def write_with_generate(
    bench: Bench, prompts: Sequence[Prompt], ends: list[int], batch: int, texts: dict[str, str]
) -> int:
    tokens = 0
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        asked = [bench.engine.render(prompt).prompt for prompt in part]
        inputs = bench.tokenizer(asked, add_special_tokens=False, return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = bench.plain.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        tokens += int((new != bench.tokenizer.pad_token_id).sum())
        decoded = bench.tokenizer.batch_decode(new, skip_special_tokens=True)
        texts.update(
            {prompt.record_id: text.strip() for prompt, text in zip(part, decoded, strict=True)}
        )
    return tokens


def race(bench: Bench, prompts: Sequence[Prompt], rounds: int) -> dict[str, Any]:
    """Each round: medtask on all rows, the others on their share of them, so that every side has
    answered every row at the end.
    """
    ends = sorted(bench.engine.writer.find_ends(LIMITS).tokens)
    sides: dict[str, dict[str, str]] = {
        name: {} for name in ("medtask", "row by row", "batches of 16")
    }
    write_with_medtask(bench, prompts[:2], {})
    write_with_generate(bench, prompts[:1], ends, 1, {})
    for number in range(rounds):
        mine = prompts[number::rounds]
        bench.lap(
            "medtask", len(prompts), partial(write_with_medtask, bench, prompts, sides["medtask"])
        )
        bench.lap(
            "row by row",
            len(mine),
            partial(write_with_generate, bench, mine, ends, 1, sides["row by row"]),
        )
        bench.lap(
            "batches of 16",
            len(mine),
            partial(write_with_generate, bench, mine, ends, 16, sides["batches of 16"]),
        )
    laps, ours = bench.laps, bench.laps["medtask"]
    same = [sides["medtask"][row] == text for row, text in sides["row by row"].items()]
    return {
        "rows": len(prompts),
        "tokens_written_per_row": round(ours.tokens / ours.rows, 1),
        "rows_per_s": {name: round(lap.rate, 3) for name, lap in laps.items()},
        "medtask_is_faster_by": {
            name: round(ours.rate / lap.rate, 1) for name, lap in laps.items() if name != "medtask"
        },
        "same_texts_as_row_by_row": f"{sum(same)} of {len(same)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with medquad")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    bench = prepare(options.dtype)
    result = race(bench, read_questions(options.data / "medquad", options.rows), options.rounds)
    machine = inspect_machine()
    result |= {
        "processor": machine.processor,
        "cores": machine.cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    result["dtype"] = str(bench.engine.model.dtype).removeprefix("torch.")
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
