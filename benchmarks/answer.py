"""Speed of free text for many rows, compared with `generate` of the same model.

    python benchmarks/answer.py --data ../shared/data [--rows 64] [--rounds 2] [--dtype float32]
    [--out answer.json]

Both methods get the same tokens, decode greedily, and stop at the same end tokens or after 64 new
tokens, so they do the same work: the texts are compared. Timings on shared machines are noisy, so
the methods alternate: use the ratios.
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
from speed import BenchmarkModels, load_models

from medtask.hardware import inspect_machine
from medtask.records import Generated, Limits, Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import FreeText, Task

NEW_TOKENS = 64
LIMITS = Limits(NEW_TOKENS, stop_repetition=False)


def read_questions(folder: Path, rows: int) -> list[Prompt]:
    task = Task(
        "disease-qa",
        "Answer the question for a patient.",
        "{{ question }}",
        answer_spec=FreeText(NEW_TOKENS),
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


def generate_with_medtask(
    models: BenchmarkModels, prompts: Sequence[Prompt], texts: dict[str, str]
) -> int:
    results = [
        result
        for result in models.engine.generate(prompts, LIMITS)
        if isinstance(result, Generated)
    ]
    texts.update({result.record_id: result.text for result in results})
    return sum(result.tokens for result in results)


def generate_with_transformers(
    models: BenchmarkModels,
    prompts: Sequence[Prompt],
    ends: list[int],
    batch: int,
    texts: dict[str, str],
) -> int:
    tokens = 0
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        asked = [models.engine.render(prompt).prompt for prompt in part]
        inputs = models.tokenizer(
            asked, add_special_tokens=False, return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            out = models.transformers_model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        tokens += int((new != models.tokenizer.pad_token_id).sum())
        decoded = models.tokenizer.batch_decode(new, skip_special_tokens=True)
        texts.update(
            {prompt.record_id: text.strip() for prompt, text in zip(part, decoded, strict=True)}
        )
    return tokens


def compare_speed(
    models: BenchmarkModels, prompts: Sequence[Prompt], rounds: int
) -> dict[str, Any]:
    """Each round: medtask on all rows, the others on their share of them, so that every side has
    answered every row at the end.
    """
    ends = sorted(models.engine.find_stop_conditions(LIMITS).token_ids)
    texts_by_method: dict[str, dict[str, str]] = {
        name: {} for name in ("medtask", "row by row", "batches of 16")
    }
    generate_with_medtask(models, prompts[:2], {})
    generate_with_transformers(models, prompts[:1], ends, 1, {})
    for number in range(rounds):
        round_prompts = prompts[number::rounds]
        models.time_call(
            "medtask",
            len(prompts),
            partial(generate_with_medtask, models, prompts, texts_by_method["medtask"]),
        )
        models.time_call(
            "row by row",
            len(round_prompts),
            partial(
                generate_with_transformers,
                models,
                round_prompts,
                ends,
                1,
                texts_by_method["row by row"],
            ),
        )
        models.time_call(
            "batches of 16",
            len(round_prompts),
            partial(
                generate_with_transformers,
                models,
                round_prompts,
                ends,
                16,
                texts_by_method["batches of 16"],
            ),
        )
    laps, medtask_timing = models.timings, models.timings["medtask"]
    same = [
        texts_by_method["medtask"][row] == text
        for row, text in texts_by_method["row by row"].items()
    ]
    return {
        "rows": len(prompts),
        "tokens_written_per_row": round(medtask_timing.tokens / medtask_timing.rows, 1),
        "rows_per_s": {name: round(lap.rate, 3) for name, lap in laps.items()},
        "medtask_is_faster_by": {
            name: round(medtask_timing.rate / lap.rate, 1)
            for name, lap in laps.items()
            if name != "medtask"
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
    models = load_models(options.dtype)
    result = compare_speed(
        models, read_questions(options.data / "medquad", options.rows), options.rounds
    )
    machine = inspect_machine()
    result |= {
        "processor": machine.processor,
        "cores": machine.cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    result["dtype"] = str(models.engine.model.dtype).removeprefix("torch.")
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
