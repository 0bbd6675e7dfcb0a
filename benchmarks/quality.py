"""How good are answers on public sets, before and after training? Runs, evaluations and comparisons by the command line itself.

    python benchmarks/quality.py --data ../shared/data --out quality [--sets icd9_procedures ...] [--models smollm2-135m minilm]

Every model answers the dev split of every set (medical_abstracts: its first 150 rows). TF-IDF and logistic regression learn from the
train split and are read as what they are to medtask: another tool's table. Each set gets a folder with its runs, their reports and
a comparison. Run again to go on where it was stopped. Single-label sets, and one with several labels.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

INSTRUCTIONS = {
    "icd9_procedures": "To which body system does the procedure belong?",
    "covidq_categories": "What is the question about?",
    "symptom2disease": "Which disease does the patient describe?",
    "medlit_domains": "Which medical domains is the article about?",
    "mts_dialog_sections": "Which section of the clinical note does the dialogue belong to?",
    "medical_abstracts": "Which condition is the abstract about?",
}
SEVERAL = ("medlit_domains",)
ROWS = {"medical_abstracts": 150}
MAX_ERROR = 0.1
Row = dict[str, Any]


def read_rows(folder: Path, split: str) -> list[Row]:
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_task(data: Path, out: Path, name: str) -> Path:
    """The set's task and its dev rows; untouched where they are there, so that runs can be resumed."""
    folder, kind = out / name, "labels" if name in SEVERAL else "label"
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(data / name, "dev")[: ROWS.get(name)]
    labels = json.loads((data / name / "labels.json").read_text(encoding="utf-8"))
    task = {
        "name": name,
        "instruction": INSTRUCTIONS[name],
        "input": "{{ text }}",
        "id": "id",
        "data": "rows.jsonl",
        "gold": kind,
        "answer": {"kind": kind, "labels": labels},
    }
    for file, text in (("rows.jsonl", "\n".join(map(json.dumps, rows)) + "\n"), ("task.json", json.dumps(task))):
        if not (folder / file).exists() or (folder / file).read_text(encoding="utf-8") != text:
            (folder / file).write_text(text, encoding="utf-8")
    return folder


def answer_by_tfidf(data: Path, folder: Path, name: str) -> Path:
    """A table with the columns id, answer and, of single labels, p:LABEL, by a model that learned from the train split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    train, rows = read_rows(data / name, "train"), read_rows(data / name, "dev")[: ROWS.get(name)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=100_000)
    texts, asked = words.fit_transform([row["text"] for row in train]), words.transform([row["text"] for row in rows])
    path = folder / "tfidf.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        if name in SEVERAL:
            names = MultiLabelBinarizer()
            truth = names.fit_transform([row["labels"] for row in train])
            found = OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000)).fit(texts, truth).predict(asked)
            writer.writerow(["id", "answer", "status"])
            writer.writerows([row["id"], "; ".join(said), "ok"] for row, said in zip(rows, names.inverse_transform(found), strict=True))
        else:
            model = LogisticRegression(C=10, max_iter=1000).fit(texts, [row["label"] for row in train])
            shares = model.predict_proba(asked)
            writer.writerow(["id", "answer", *(f"p:{label}" for label in model.classes_)])
            writer.writerows(
                [row["id"], model.classes_[share.argmax()], *share.tolist()] for row, share in zip(rows, shares, strict=True)
            )
    return path


def is_finished(place: Path) -> bool:
    manifest = place / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text(encoding="utf-8"))["state"] == "finished"


def call(*words: object) -> Any:
    """What a `medtask` command prints with --json."""
    done = subprocess.run([sys.executable, "-m", "medtask", *map(str, words), "--json"], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: some rows got no answer; they count as wrong
        raise SystemExit(f"medtask {words[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure_set(data: Path, out: Path, name: str, models: list[str]) -> dict[str, Any]:
    folder = write_task(data, out, name)
    places = {model: folder / model.replace("/", "--").replace(":", "-") for model in models}
    for model, place in places.items():
        if not is_finished(place):
            print(f"{name}: {model}", file=sys.stderr)
            call("run", folder, "--model", model, "--out", place, "-q")
    places["tfidf, trained"] = answer_by_tfidf(data, folder, name)
    gold = f"{folder / 'rows.jsonl'}#{'labels' if name in SEVERAL else 'label'}"
    told = {}
    for who, place in places.items():
        told[who] = call("evaluate", place, "--gold", gold, "--task", folder, "--max-error", MAX_ERROR, "--no-baselines")
    board = call("compare", *places.values(), "--gold", gold, "--no-baselines", "--out", folder / "comparison.html")
    return {"evaluations": told, "comparison": board}


def show(figure: dict[str, Any] | None) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})" if figure and figure["low"] is not None else "–"


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    print("| set | n | who | headline | macro-F1 | calibration error | accepted at 10 % error |\n|---|---|---|---|---|---|---|")
    for name, result in results.items():
        for who, told in result["evaluations"].items():
            metrics = told["metrics"]
            first = next(iter(metrics))
            believed, accepted = told["reliability"], told["acceptance"]
            cells = [
                f"{first.replace('_', ' ')} {show(metrics[first])}",
                show(metrics.get("macro_f1")),
                show(believed["ece"]) if believed else "–",
                f"{accepted['coverage']:.1%}" if accepted else "refused",
            ]
            print(f"| {name} | {told['gold']['rows']} | {who} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--sets", nargs="+", choices=list(INSTRUCTIONS), default=list(INSTRUCTIONS))
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "minilm"])
    wanted = parser.parse_args()
    results = {name: measure_set(wanted.data, wanted.out, name, wanted.models) for name in wanted.sets}
    (wanted.out / "quality.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print_tables(results)


if __name__ == "__main__":
    main()
