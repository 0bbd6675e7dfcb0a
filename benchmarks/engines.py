"""Every engine on the same rows and labels: capabilities, speed, and agreement with `hf`.

    python benchmarks/engines.py --data ../shared/data [--rows 64] [--rounds 2] [--out engines.json]

All engines but the last two read the same built-in model, two of them through servers that this
script starts on loopback. Engines with missing packages are left out with a note. Timings
on shared machines are noisy, so the engines alternate: use the ratios.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from speed import BenchmarkModels, label_with_llama, load_models, make_llama_grammar, read_dataset

from medtask import load_model
from medtask.engines.base import Caps, Engine
from medtask.engines.files.model_files import find_built_in_model
from medtask.engines.files.weights import dequantize_gguf
from medtask.engines.linear import save_linear
from medtask.engines.model_metadata import ModelMetadata
from medtask.errors import MissingExtra
from medtask.hardware import inspect_machine
from medtask.records import BranchScores, Fault, Prompt, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task

HIGH_LEVEL_LLAMA = "llama-cpp-python's high-level call"
WARM_UP = 4


@dataclass
class EngineRun:
    """One engine in the race. ``same_weights``: it reads the same weights as hf, so that its
    probabilities can be held against those.
    """

    name: str
    engine: Engine
    same_weights: bool = True
    results: dict[str, Scores | Fault] = field(default_factory=dict)

    def score_prompts(self, prompts: Sequence[Prompt]) -> int:
        found = {said.record_id: said for said in self.engine.score(prompts)}
        self.results.update(found)
        return sum(said.tokens_read for said in found.values() if isinstance(said, Scores))


def open_engines(
    stack: ExitStack,
    models: BenchmarkModels,
    task: Task,
    texts: Sequence[str],
    gold: Sequence[str],
    excluded: Sequence[str],
) -> Iterator[EngineRun]:
    """The engines, hf first. ``texts`` and ``gold``: rows to train the linear model on.
    ``excluded``: names to leave out.
    """
    yield EngineRun("hf", models.engine)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "linear")
    references: list[tuple[str, Callable[[], str], bool]] = [
        ("llamacpp", lambda: "llamacpp:smollm2-135m", True),
        ("mlx", lambda: "mlx:smollm2-135m", True),
        ("http: llama-cpp-python's server", partial(start_llama_server, stack), True),
        ("http: transformers serve", partial(start_transformers_server, stack), True),
        ("encoder (minilm)", lambda: "minilm", False),
        ("linear (TF-IDF)", partial(train_linear_model, folder, task, texts, gold), False),
    ]
    for name, find, same in references:
        if name in excluded:
            continue
        try:
            engine = load_model(find())
        except MissingExtra as missing:
            print(f"{name} is left out: {missing}", flush=True)
            continue
        stack.callback(engine.close)
        print(f"{name} is ready", flush=True)
        yield EngineRun(name, engine, same)


def import_model_servers() -> Any:
    """The tests' starter of real servers."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    return importlib.import_module("support.model_servers")


def start_llama_server(stack: ExitStack) -> str:
    servers, built_in = import_model_servers(), find_built_in_model()
    if missing := servers.find_missing_packages(servers.LLAMA_SERVER_PACKAGES):
        raise MissingExtra(
            f"{', '.join(missing)} not installed", fix="pip install 'llama-cpp-python[server]'"
        )
    return str(
        stack.enter_context(
            servers.run_llama_server(built_in, threads=inspect_machine(accelerator=False).cores)
        )
    )


def start_transformers_server(stack: ExitStack) -> str:
    servers, built_in = import_model_servers(), find_built_in_model()
    assert built_in  # prepare() has seen it
    if missing := servers.find_missing_packages(servers.TRANSFORMERS_SERVER_PACKAGES):
        raise MissingExtra(
            f"{', '.join(missing)} not installed", fix="pip install 'transformers[serving]'"
        )
    return str(stack.enter_context(servers.run_transformers_server(dequantize_gguf(built_in)[0])))


def train_linear_model(folder: Path, task: Task, texts: Sequence[str], gold: Sequence[str]) -> str:
    """TF-IDF and logistic regression on words and pairs of words; the folder it was saved to."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    classifier = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(texts), gold)
    named = tuple(label.name for label in task.labels if label.name in set(gold))
    save_linear(folder, words, classifier, ModelMetadata("linear", "label", named))
    return str(folder)


def read_gold(folder: Path) -> dict[str, str]:
    """The label of every row that read_set reads, by its id."""
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {row["id"]: row["label"] for row in map(json.loads, lines)}


def time_engines(
    models: BenchmarkModels,
    engine_runs: Sequence[EngineRun],
    task: Task,
    prompts: Sequence[Prompt],
    rounds: int,
) -> None:
    """All sides answer all prompts, a share of them in each round, one side after the other."""
    grammar = make_llama_grammar(task) if models.llama else None
    texts = [models.engine.render(prompt).prompt for prompt in prompts]
    for engine_run in engine_runs:
        engine_run.score_prompts(prompts[:WARM_UP])
    if models.llama:
        label_with_llama(models, texts[:1], grammar)
    for number in range(rounds):
        round_rows = slice(number, None, rounds)
        for engine_run in engine_runs:
            models.time_call(
                engine_run.name,
                len(prompts[round_rows]),
                partial(engine_run.score_prompts, prompts[round_rows]),
            )
        if models.llama:
            models.time_call(
                HIGH_LEVEL_LLAMA,
                len(texts[round_rows]),
                partial(label_with_llama, models, texts[round_rows], grammar),
            )
        print(
            f"round {number + 1}:",
            {name: round(lap.rate, 2) for name, lap in models.timings.items()},
            flush=True,
        )


def find_scores(side: EngineRun, name: str) -> BranchScores:
    """What a side scored for a record that it has answered."""
    result = side.results[name]
    assert isinstance(result, Scores)
    return result.branches[0]


def compare_with_hf(
    engine_run: EngineRun, hf: EngineRun, labels: Sequence[str], gold: dict[str, str]
) -> dict[str, Any]:
    """What a side answered, against hf and against gold. Faults count as rows without an answer,
    and as wrong.
    """
    answered = [
        name
        for name, said in engine_run.results.items()
        if isinstance(said, Scores) and isinstance(hf.results[name], Scores)
    ]
    probabilities, hf_probabilities = (
        np.exp([find_scores(one, name).logprobs for name in answered]) for one in (engine_run, hf)
    )
    found: dict[str, Any] = {
        "can": describe_caps(
            engine_run.engine.caps,
            trained="not calibrated" not in str(engine_run.engine.info.notes),
        ),
        "answered": f"{len(answered)} of {len(engine_run.results)}",
        "same_labels": None,
        "right": round(
            sum(
                labels[best] == gold[name]
                for name, best in zip(answered, _argmax_rows(probabilities), strict=True)
            )
            / len(engine_run.results),
            3,
        ),
    }
    if answered:
        found["same_labels"] = round(
            float(np.mean(_argmax_rows(probabilities) == _argmax_rows(hf_probabilities))), 3
        )
    if answered and engine_run.same_weights and engine_run.engine.caps.score != "none":
        differences = np.abs(probabilities - hf_probabilities)
        found |= {
            "mean_difference": round(float(differences.mean()), 4),
            "max_difference": round(float(differences.max()), 3),
        }
        found["max_slack"] = round(max(find_scores(engine_run, name).slack for name in answered), 3)
    return found


def _argmax_rows(shares: Any) -> Any:
    return shares.argmax(axis=1) if len(shares) else np.array([], dtype=int)


def describe_caps(caps: Caps, *, trained: bool = True) -> str:
    """The capability record in a few words. An encoder that was not ``trained`` tells similarities
    in the shape of probabilities.
    """
    score = {
        "exact": "exact probabilities",
        "first_token": "first-token probabilities",
        "none": "no probabilities",
    }[caps.score]
    score = score if trained else "similarities"
    more = {"writes": caps.generate, "JSON schema": caps.schema}
    return ", ".join([score, *(name for name, supported in more.items() if supported)])


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    heads = (
        "engine",
        "can",
        "rows/s",
        "of hf",
        "answered",
        "labels as hf",
        "probabilities: mean, max difference (slack up to)",
        "right",
    )
    lines = [heads, ("---",) * len(heads)]
    for name, row in rows.items():
        apart = (
            f"{row['mean_difference']}, {row['max_difference']} ({row['max_slack']})"
            if "mean_difference" in row
            else ""
        )
        cells = (
            row.get("can", ""),
            row["rows_per_s"],
            f"{row['of_hf']} x",
            row.get("answered", ""),
            row.get("same_labels", ""),
            apart,
        )
        lines.append(
            (name, *("" if value is None else str(value) for value in (*cells, row.get("right"))))
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with icd9_procedures")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--dtype", default="float32", choices=["auto", "float32", "bfloat16"], help="of hf"
    )
    parser.add_argument(
        "--without", nargs="*", default=[], help="engines to leave out, by their names in the table"
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    folder = options.data / "icd9_procedures"
    task, records = read_dataset(folder, sys.maxsize)
    gold = read_gold(folder)
    # The file is sorted by code: its first rows are of one kind.
    scored_records = records[:: len(records) // options.rows][: options.rows]
    training_records = [record for record in records if record not in scored_records]
    prompts = [
        prompt
        for record in scored_records
        if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    models = load_models(options.dtype)
    with ExitStack() as stack:
        texts = [str(record.fields["text"]) for record in training_records]
        names = [gold[record.id] for record in training_records]
        engine_runs = list(open_engines(stack, models, task, texts, names, options.without))
        time_engines(models, engine_runs, task, prompts, options.rounds)
    labels = [label.name for label in task.labels]
    rows = {
        engine_run.name: compare_with_hf(engine_run, engine_runs[0], labels, gold)
        for engine_run in engine_runs
    }
    for name, lap in models.timings.items():
        rows.setdefault(name, {}).update(
            rows_per_s=round(lap.rate, 2), of_hf=round(lap.rate / models.timings["hf"].rate, 3)
        )
    machine = inspect_machine()
    result: dict[str, Any] = {
        "processor": machine.processor,
        "cores": machine.cores,
        "python": platform.python_version(),
    }
    result |= {
        "rows": len(prompts),
        "rounds": options.rounds,
        "dtype": options.dtype,
        "engines": rows,
    }
    if "llamacpp" in models.timings and HIGH_LEVEL_LLAMA in models.timings:
        result["llamacpp_over_high_level"] = round(
            models.timings["llamacpp"].rate / models.timings[HIGH_LEVEL_LLAMA].rate, 1
        )
    print(format_table(rows), json.dumps(result, indent=2), sep="\n\n")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
