"""Quality on public sets before and after training, measured with the command line.

    python benchmarks/quality.py --data ../shared/data --out quality [--sets icd9_procedures ...]
    [--models smollm2-135m minilm]
                                 [--methods linear encoder rslora hybrid] [--rows N]

Every model answers the dev split of every set. With --methods a model is trained on the train split
by each of them and answers the same rows: training keeps a tenth of the train split to validate by,
and never sees the dev split. ``hybrid`` weighs the other trained models. ``--rows`` bounds the rows
that language models learn from (encoder, linear and TF-IDF always learn from all): a CPU reads a
hundred or two tokens of training a second. TF-IDF and logistic regression learn from the train
split as well, outside medtask, and are read as what they are to it: another tool's table. Each set
gets a folder with its runs, their reports and a comparison. Run again to go on where it was
stopped.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_ERROR = 0.1
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """``instruction``: the task's. ``multi_label``: any of the labels may apply.
    ``long_texts``: its texts are abstracts and dialogues, of which a CPU reads few. ``epochs``:
    of language models, and of encoders. ``dev_rows``: the first rows of the dev split that are
    asked, None for all. ``slice_column``: a column by whose truth rows are also measured apart.
    """

    instruction: str
    multi_label: bool = False
    long_texts: bool = False
    epochs: tuple[int, int] = (3, 3)
    dev_rows: int | None = None
    slice_column: str | None = None

    @property
    def gold(self) -> str:
        return "labels" if self.multi_label else "label"

    def list_training_options(self, method: str) -> list[str]:
        """Training's options."""
        if method in ("linear", "hybrid"):
            return []
        chosen = ["--epochs", str(self.epochs[method == "encoder"])]
        # Few rows to learn from make many steps only if each takes few of them.
        return chosen + (
            (["--row-tokens", "128"] if method == "encoder" else ["--batch", "8"])
            if self.long_texts
            else []
        )


SETS = {
    "icd9_procedures": DatasetConfig("To which body system does the procedure belong?"),
    "covidq_categories": DatasetConfig("What is the question about?"),
    "symptom2disease": DatasetConfig("Which disease does the patient describe?"),
    "mts_dialog_sections": DatasetConfig(
        "Which section of the clinical note does the dialogue belong to?",
        long_texts=True,
        epochs=(1, 2),
    ),
    "ade_sentences": DatasetConfig(
        "Does the sentence tell of harm that a drug has done to a patient?",
        epochs=(1, 2),
        dev_rows=1000,
    ),
    "medical_abstracts": DatasetConfig(
        "Which condition is the abstract about?", long_texts=True, epochs=(1, 2), dev_rows=150
    ),
    "hallmarks_of_cancer": DatasetConfig(
        "Which hallmarks of cancer does the abstract tell of?",
        multi_label=True,
        long_texts=True,
        epochs=(1, 2),
    ),
    "medlit_domains": DatasetConfig(
        "Which medical domains is the article about?",
        multi_label=True,
        long_texts=True,
        epochs=(1, 1),
        slice_column="template",
    ),
    "pubmedqa": DatasetConfig(
        "Answer the question by the abstract.", long_texts=True, epochs=(1, 2)
    ),
}


def read_rows(folder: Path, split: str) -> list[Row]:
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        if "options" in row:  # pubmedqa: the same three options in every row are labels
            row |= {
                "text": f"Question: {row['question']}\n\n{row['context']}",
                "label": row["options"][row["answer"]],
            }
    return rows


def write_task(data: Path, out: Path, name: str) -> Path:
    """The set's task and its rows; untouched where they are there, so that runs can be resumed."""
    folder, one = out / name, SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(data / name, "dev")[: one.dev_rows]
    listed = data / name / "labels.json"
    labels = (
        json.loads(listed.read_text(encoding="utf-8"))
        if listed.exists()
        else sorted({row["label"] for row in rows})
    )
    task = {
        "name": name,
        "instruction": one.instruction,
        "input": "{{ text }}",
        "id": "id",
        "data": "rows.jsonl",
        "gold": one.gold,
        "answer": {"kind": one.gold, "labels": labels},
    }
    if one.long_texts:
        task["gate"] = {"too_long": "head_tail"}  # MiniLM reads 512 tokens
    files = {"rows.jsonl": rows, "train.jsonl": read_rows(data / name, "train")}
    if one.slice_column is not None:
        for part in (True, False):
            files[f"{one.slice_column}-{part}.jsonl"] = [
                row for row in rows if bool(row[one.slice_column]) is part
            ]
    texts = {file: "\n".join(map(json.dumps, found)) + "\n" for file, found in files.items()} | {
        "task.json": json.dumps(task)
    }
    for file, text in texts.items():
        if not (folder / file).exists() or (folder / file).read_text(encoding="utf-8") != text:
            (folder / file).write_text(text, encoding="utf-8")
    return folder


def answer_with_tfidf(data: Path, folder: Path, name: str) -> Path:
    """A table with the columns id, answer and, of single labels, p:LABEL, by a model that learned
    from the train split.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    train = read_rows(data / name, "train")
    rows = read_rows(data / name, "dev")[: SETS[name].dev_rows]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=100_000)
    texts = words.fit_transform([row["text"] for row in train])
    asked = words.transform([row["text"] for row in rows])
    path = folder / "tfidf.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        if SETS[name].multi_label:
            names = MultiLabelBinarizer()
            truth = names.fit_transform([row["labels"] for row in train])
            found = (
                OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000))
                .fit(texts, truth)
                .predict(asked)
            )
            writer.writerow(["id", "answer", "status"])
            writer.writerows(
                [row["id"], "; ".join(labels), "ok"]
                for row, labels in zip(rows, names.inverse_transform(found), strict=True)
            )
        else:
            model = LogisticRegression(C=10, max_iter=1000).fit(
                texts, [row["label"] for row in train]
            )
            shares = model.predict_proba(asked)
            writer.writerow(["id", "answer", *(f"p:{label}" for label in model.classes_)])
            writer.writerows(
                [row["id"], model.classes_[share.argmax()], *share.tolist()]
                for row, share in zip(rows, shares, strict=True)
            )
    return path


def is_finished(folder: Path) -> bool:
    manifest = folder / "manifest.json"
    return (
        manifest.exists()
        and json.loads(manifest.read_text(encoding="utf-8"))["state"] == "finished"
    )


def run_medtask(*words: object) -> Any:
    """What a `medtask` command prints with --json."""
    done = subprocess.run(
        [sys.executable, "-m", "medtask", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):  # 3: some rows got no answer; they count as wrong
        raise SystemExit(f"medtask {words[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def write_row_subset(folder: Path, rows: int) -> tuple[Path, Path]:
    """Tables of so many rows to learn from, and a fifth as many to validate by: some of those that
    `medtask train` would take for it, so that no model learns from rows that a hybrid's weights are
    fitted on.
    """
    import medtask
    from medtask.training.training_data import build_training_data

    table = folder / "train.jsonl"
    training_data = build_training_data(medtask.load_task(folder), medtask.read_table(table))
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    paths = []
    for name, examples, most in (
        ("train", training_data.train, rows),
        ("validation", training_data.validation, rows // 5),
    ):
        # Spread over the whole table, whose rows may be sorted.
        step = max(1, len(examples) // most)
        paths.append(folder / f"{name}-{rows}.jsonl")
        paths[-1].write_text(
            "".join(lines[example.row - 1] for example in examples[::step][:most]), encoding="utf-8"
        )
    return paths[0], paths[1]


def train_models(folder: Path, name: str, methods: list[str], rows: int | None) -> dict[str, Path]:
    """The folders of the models that the methods make of the train split."""
    model_folders: dict[str, Path] = {}
    for method in methods:
        folder_out = folder / "models" / method
        words = ["--method", method, *SETS[name].list_training_options(method)]
        if method == "hybrid":
            words += [word for member in model_folders.values() for word in ("--base", str(member))]
        elif method not in ("linear", "encoder"):
            words += ["--base", "smollm2-135m"]
        table = folder / "train.jsonl"
        if rows and method not in ("linear", "encoder", "hybrid"):
            table, validation_table = write_row_subset(folder, rows)
            words += ["--validation", str(validation_table)]
        print(f"{name}: training by {method}", file=sys.stderr)
        run_medtask("train", folder, table, *words, "--out", folder_out, "-q")
        model_folders[method] = folder_out
    return model_folders


def evaluate_set(data: Path, out: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    folder, one = write_task(data, out, name), SETS[name]
    models = {model: model for model in options.models}
    models |= {
        f"{method}, trained": str(place)
        for method, place in train_models(folder, name, options.methods, options.rows).items()
    }
    places = {
        who: folder / who.replace("/", "--").replace(":", "-").replace(", ", "-") for who in models
    }
    for system, place in places.items():
        if not is_finished(place):
            print(f"{name}: {system}", file=sys.stderr)
            run_medtask("run", folder, "--model", models[system], "--out", place, "-q")
    places["tfidf, trained"] = answer_with_tfidf(data, folder, name)
    results = {}
    for part in (
        "rows",
        *((f"{one.slice_column}-{value}" for value in (True, False)) if one.slice_column else ()),
    ):
        gold = f"{folder / part}.jsonl#{one.gold}"
        evaluations = {
            who: run_medtask(
                "evaluate",
                place,
                "--gold",
                gold,
                "--task",
                folder,
                "--max-error",
                MAX_ERROR,
                "--no-baselines",
            )
            for who, place in places.items()
        }
        comparison = run_medtask(
            "compare",
            *places.values(),
            "--gold",
            gold,
            "--no-baselines",
            "--out",
            folder / f"comparison-{part}.html",
        )
        results[name if part == "rows" else f"{name}, {part.replace('-', ' ')}"] = {
            "evaluations": evaluations,
            "comparison": comparison,
        }
    return results


def format_figure(figure: dict[str, Any] | None) -> str:
    return (
        f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"
        if figure and figure["low"] is not None
        else "–"
    )


def format_tfidf_comparison(comparison: dict[str, Any], system: str) -> str:
    """What the paired test says of a system against TF-IDF, on the same rows."""
    for pair in comparison["pairs"]:
        names = (pair["first"], pair["second"])
        if set(names) == {system, "tfidf"}:
            first = next(iter(pair["differences"]))
            found = dict(pair["differences"][first])
            if names[0] == "tfidf":
                found |= {"value": -found["value"], "low": -found["high"], "high": -found["low"]}
            return (
                f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}), p "
                f"{pair['p_holm']:.2g}"
            )
    return "–"


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    print(
        "| set | n | who | headline | against TF-IDF, paired (p: Holm) | macro-F1 | calibration "
        "error | accepted at 10 % error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        for system, evaluation in result["evaluations"].items():
            metrics = evaluation["metrics"]
            first = next(iter(metrics))
            reliability, acceptance = evaluation["reliability"], evaluation["acceptance"]
            cells = [
                f"{first.replace('_', ' ')} {format_figure(metrics[first])}",
                format_tfidf_comparison(
                    result["comparison"],
                    system.replace("/", "--").replace(":", "-").replace(", ", "-"),
                ),
                format_figure(metrics.get("macro_f1")),
                format_figure(reliability["ece"]) if reliability else "–",
                f"{acceptance['coverage']:.1%}" if acceptance else "refused",
            ]
            print(f"| {name} | {evaluation['gold']['rows']} | {system} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--models", nargs="*", default=["smollm2-135m", "minilm"])
    parser.add_argument(
        "--methods",
        nargs="*",
        default=[],
        choices=["linear", "encoder", "lora", "rslora", "dora", "full", "hybrid"],
    )
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for name in options.sets:
        results |= evaluate_set(options.data, options.out, name, options)
        (options.out / "quality.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print_tables(results)


if __name__ == "__main__":
    main()
