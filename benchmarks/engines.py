"""Every engine on the same rows and labels: what it can do, how fast it is, and how far it says
what `hf` says.

    python benchmarks/engines.py --data ../shared/data [--rows 64] [--rounds 2] [--out engines.json]

All engines but the last two read the same built-in model, two of them through servers that this
script starts on loopback. An engine whose packages are missing is left out with a word. Shared
machines are noisy: the engines take turns, and the ratios matter.
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
from speed import Bench, label_with_llama, prepare, read_set, write_grammar

from medtask import load_model
from medtask.engines.base import Caps, Engine
from medtask.engines.files.locate import find_built_in
from medtask.engines.files.weights import unpack_gguf
from medtask.engines.linear import save_linear
from medtask.engines.trained import Trained
from medtask.errors import MissingExtra
from medtask.hardware import inspect_machine
from medtask.records import BranchScores, Fault, Prompt, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task

HIGH_LEVEL = "llama-cpp-python's high-level call"
WARM_UP = 4


@dataclass
class Side:
    """One engine in the race. ``same``: it reads the same weights as hf, so that its probabilities
    can be held against those.
    """

    name: str
    engine: Engine
    same: bool = True
    results: dict[str, Scores | Fault] = field(default_factory=dict)

    def answer(self, prompts: Sequence[Prompt]) -> int:
        found = {said.record_id: said for said in self.engine.score(prompts)}
        self.results.update(found)
        return sum(said.tokens_read for said in found.values() if isinstance(said, Scores))


def open_sides(
    stack: ExitStack,
    bench: Bench,
    task: Task,
    texts: Sequence[str],
    gold: Sequence[str],
    without: Sequence[str],
) -> Iterator[Side]:
    """The engines, hf first. ``texts`` and ``gold``: rows to train the linear model on.
    ``without``: names to leave out.
    """
    yield Side("hf", bench.engine)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "linear")
    references: list[tuple[str, Callable[[], str], bool]] = [
        ("llamacpp", lambda: "llamacpp:smollm2-135m", True),
        ("mlx", lambda: "mlx:smollm2-135m", True),
        ("http: llama-cpp-python's server", partial(open_llama, stack), True),
        ("http: transformers serve", partial(open_transformers, stack), True),
        ("encoder (minilm)", lambda: "minilm", False),
        ("linear (TF-IDF)", partial(train_linear, folder, task, texts, gold), False),
    ]
    for name, find, same in references:
        if name in without:
            continue
        try:
            engine = load_model(find())
        except MissingExtra as missing:
            print(f"{name} is left out: {missing}", flush=True)
            continue
        stack.callback(engine.close)
        print(f"{name} is ready", flush=True)
        yield Side(name, engine, same)


def import_peers() -> Any:
    """The tests' starter of real servers."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    return importlib.import_module("peers")


def open_llama(stack: ExitStack) -> str:
    peers, built_in = import_peers(), find_built_in()
    if missing := peers.find_missing(peers.LLAMA_NEEDS):
        raise MissingExtra(
            f"{', '.join(missing)} not installed", fix="pip install 'llama-cpp-python[server]'"
        )
    return str(
        stack.enter_context(
            peers.serve_llama(built_in, threads=inspect_machine(accelerator=False).cores)
        )
    )


def open_transformers(stack: ExitStack) -> str:
    peers, built_in = import_peers(), find_built_in()
    assert built_in  # prepare() has seen it
    if missing := peers.find_missing(peers.TRANSFORMERS_NEEDS):
        raise MissingExtra(
            f"{', '.join(missing)} not installed", fix="pip install 'transformers[serving]'"
        )
    return str(stack.enter_context(peers.serve_transformers(unpack_gguf(built_in)[0])))


def train_linear(folder: Path, task: Task, texts: Sequence[str], gold: Sequence[str]) -> str:
    """TF-IDF and logistic regression on words and pairs of words; the folder it was saved to."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    classifier = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(texts), gold)
    named = tuple(label.name for label in task.labels if label.name in set(gold))
    save_linear(folder, words, classifier, Trained("linear", "label", named))
    return str(folder)


def read_gold(folder: Path) -> dict[str, str]:
    """The label of every row that read_set reads, by its id."""
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {row["id"]: row["label"] for row in map(json.loads, lines)}


def race(
    bench: Bench, sides: Sequence[Side], task: Task, prompts: Sequence[Prompt], rounds: int
) -> None:
    """All sides answer all prompts, a share of them in each round, one side after the other."""
    grammar = write_grammar(task) if bench.llama else None
    texts = [bench.engine.render(prompt).prompt for prompt in prompts]
    for side in sides:
        side.answer(prompts[:WARM_UP])
    if bench.llama:
        label_with_llama(bench, texts[:1], grammar)
    for number in range(rounds):
        mine = slice(number, None, rounds)
        for side in sides:
            bench.lap(side.name, len(prompts[mine]), partial(side.answer, prompts[mine]))
        if bench.llama:
            bench.lap(
                HIGH_LEVEL, len(texts[mine]), partial(label_with_llama, bench, texts[mine], grammar)
            )
        print(
            f"round {number + 1}:",
            {name: round(lap.rate, 2) for name, lap in bench.laps.items()},
            flush=True,
        )


def find_scores(side: Side, name: str) -> BranchScores:
    """What a side scored for a record that it has answered."""
    result = side.results[name]
    assert isinstance(result, Scores)
    return result.branches[0]


def compare(side: Side, hf: Side, labels: Sequence[str], gold: dict[str, str]) -> dict[str, Any]:
    """What a side answered, against hf and against gold. Faults count as rows without an answer,
    and as wrong.
    """
    answered = [
        name
        for name, said in side.results.items()
        if isinstance(said, Scores) and isinstance(hf.results[name], Scores)
    ]
    ours, theirs = (
        np.exp([find_scores(one, name).logprobs for name in answered]) for one in (side, hf)
    )
    found: dict[str, Any] = {
        "can": describe_caps(
            side.engine.caps,
            trained="not calibrated" not in str(side.engine.info.details.get("notes")),
        ),
        "answered": f"{len(answered)} of {len(side.results)}",
        "same_labels": None,
        "right": round(
            sum(
                labels[best] == gold[name] for name, best in zip(answered, _best(ours), strict=True)
            )
            / len(side.results),
            3,
        ),
    }
    if answered:
        found["same_labels"] = round(float(np.mean(_best(ours) == _best(theirs))), 3)
    if answered and side.same and side.engine.caps.score != "none":
        apart = np.abs(ours - theirs)
        found |= {
            "mean_difference": round(float(apart.mean()), 4),
            "max_difference": round(float(apart.max()), 3),
        }
        found["max_slack"] = round(max(find_scores(side, name).slack for name in answered), 3)
    return found


def _best(shares: Any) -> Any:
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
    return ", ".join([score, *(name for name, has in more.items() if has)])


def write_table(rows: dict[str, dict[str, Any]]) -> str:
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
        told = (
            row.get("can", ""),
            row["rows_per_s"],
            f"{row['of_hf']} x",
            row.get("answered", ""),
            row.get("same_labels", ""),
            apart,
        )
        lines.append(
            (name, *("" if value is None else str(value) for value in (*told, row.get("right"))))
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
    task, records = read_set(folder, sys.maxsize)
    gold = read_gold(folder)
    asked = records[:: len(records) // options.rows][
        : options.rows
    ]  # the file is sorted by code: its first rows are of one kind
    others = [record for record in records if record not in asked]
    prompts = [
        prompt for record in asked if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    bench = prepare(options.dtype)
    with ExitStack() as stack:
        texts, names = (
            [str(record.fields["text"]) for record in others],
            [gold[record.id] for record in others],
        )
        sides = list(open_sides(stack, bench, task, texts, names, options.without))
        race(bench, sides, task, prompts, options.rounds)
    labels = [label.name for label in task.labels]
    rows = {side.name: compare(side, sides[0], labels, gold) for side in sides}
    for name, lap in bench.laps.items():
        rows.setdefault(name, {}).update(
            rows_per_s=round(lap.rate, 2), of_hf=round(lap.rate / bench.laps["hf"].rate, 3)
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
    if "llamacpp" in bench.laps and HIGH_LEVEL in bench.laps:
        result["llamacpp_over_high_level"] = round(
            bench.laps["llamacpp"].rate / bench.laps[HIGH_LEVEL].rate, 1
        )
    print(write_table(rows), json.dumps(result, indent=2), sep="\n\n")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
