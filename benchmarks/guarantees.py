"""Verify the guarantees of calibration, acceptance, prediction sets and audits by simulation.

    python benchmarks/guarantees.py --data ../shared/data [--quick] [--out guarantees.json]

The predictions: TF-IDF and logistic regression, trained on a part of each public set and
applied to the rest of its train and dev rows. The rest is the population: its true error and
frequencies are known, so each resample shows whether a guarantee holds. Rows are drawn with
replacement, so they are exchangeable, which is all that the guarantees assume.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.calibration.acceptance import GoldConfidences, find_acceptance
from medtask.evaluation.calibration.fitting import LabelSet, fit_calibration
from medtask.evaluation.calibration.prediction_sets import PredictionSets, fit_prediction_sets
from medtask.evaluation.calibration.reliability import compute_ece, compute_proper_scores
from medtask.evaluation.statistics.audit import LabelColumns, estimate_audit
from medtask.evaluation.statistics.audit_plan import plan_audit
from medtask.evaluation.statistics.intervals import compute_wilson_bounds
from medtask.evaluation.statistics.refusal import Refusal

SETS = (
    "icd9_procedures",
    "medical_abstracts",
    "symptom2disease",
    "mts_dialog_sections",
    "ade_sentences",
)
# Gold rows, promised error, a threshold for each class.
ACCEPTANCE_SETTINGS = (
    (100, 0.1, False),
    (371, 0.05, False),
    (371, 0.1, False),
    (371, 0.1, True),
    (2000, 0.05, False),
    (2000, 0.05, True),
)
AUDIT_ROWS = 120
ResultRow = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Shares [n, k] and the true column [n] of rows that the model was not trained on."""

    name: str
    probabilities: NDArray[np.float64]
    gold: NDArray[np.int64]

    @property
    def answers(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def confidence(self) -> NDArray[np.float64]:
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def is_right(self) -> NDArray[np.bool_]:
        return np.asarray(self.answers == self.gold)


def predict_set(folder: Path) -> Predictions:
    """A model of half of the rows (3,000 at most) asked about all others whose label it knows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows: list[dict[str, str]] = []
    for split in ("train", "dev"):
        with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows += map(json.loads, lines)
    texts = np.array([row["text"] for row in rows], dtype=object)
    labels = np.array([row["label"] for row in rows])
    order = np.random.default_rng(20261120).permutation(len(rows))
    cut = min(len(rows) // 2, 3000)
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=30_000)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=300))
    model.fit(texts[order[:cut]], labels[order[:cut]])
    names = list(model.classes_)
    rest = np.array([row for row in order[cut:] if labels[row] in names])
    return Predictions(
        folder.name,
        model.predict_proba(texts[rest]),
        np.array([names.index(label) for label in labels[rest]]),
    )


def simulate(accuracy: float, rows: int = 20_000) -> Predictions:
    """Six labels of uneven frequency; answers that are right as often as they say, ``accuracy`` of
    them on average.
    """
    random = np.random.default_rng(int(1000 * accuracy))
    frequent = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    spread = 8 * (1 - accuracy) + 1
    confidence = np.clip(random.beta(spread * accuracy / (1 - accuracy), spread, rows), 1 / 6, 1)
    answers = random.choice(6, rows, p=frequent)
    others = (answers + random.integers(1, 6, rows)) % 6
    gold = np.where(random.random(rows) < confidence, answers, others)
    shares = np.repeat((1 - confidence)[:, None] / 5, 6, axis=1)
    shares[np.arange(rows), answers] = confidence
    return Predictions(f"simulated {accuracy:g}", shares, gold)


def simulate_edge(rows: int = 20_000) -> Predictions:
    """Answers of which 5.1 % are wrong at every confidence: whatever is accepted at 5 % breaks the
    promise.
    """
    random = np.random.default_rng(51)
    confidence = random.uniform(0.5, 1, rows)
    gold = (random.permutation(rows) < 0.051 * rows).astype(np.int64)
    return Predictions("simulated edge", np.stack([confidence, 1 - confidence], axis=1), gold)


def measure_acceptance(
    population: Predictions, draws: int, rows: int, max_error: float, by_class: bool
) -> ResultRow:
    """How often what is found on ``rows`` rows lets too many errors through in the population, and
    how much it accepts there.
    """
    violations, coverage, refused = 0, [], 0
    confidence, right, answers = population.confidence, population.is_right, population.answers
    for seed in range(draws):
        drawn = np.random.default_rng(seed).integers(0, len(right), rows)
        found = find_acceptance(
            GoldConfidences(
                confidence[drawn], right[drawn], classes=answers[drawn] if by_class else None
            ),
            max_error=max_error,
        )
        if isinstance(found, Refusal):
            refused += 1
            coverage.append(0.0)
            continue
        taken = found.select_accepted(confidence, answers)
        parts = (
            [taken & (answers == number) for number in found.class_thresholds]
            if by_class
            else [taken]
        )
        violations += any(np.mean(~right[part]) > max_error for part in parts if part.any())
        coverage.append(float(taken.mean()))
    return {
        "set": population.name,
        "gold rows": rows,
        "promise": max_error,
        "thresholds": "by class" if by_class else "one",
        "draws": draws,
        "broken": violations / draws,
        "refused": refused / draws,
        "coverage": float(np.mean(coverage)),
    }


def measure_calibration(population: Predictions, draws: int) -> ResultRow:
    """Figures told by a calibration of 371 rows, against those that it truly has on the
    population.
    """
    estimated, measured, methods = [], [], []
    inside = 0
    plain = (
        float(compute_proper_scores(population.probabilities, population.gold)["log_loss"].mean()),
        compute_ece(population.confidence, population.is_right),
    )
    labels = [str(number) for number in range(population.probabilities.shape[1])]
    for seed in range(draws):
        # No text in two folds.
        drawn = np.random.default_rng(seed).choice(len(population.gold), 371, replace=False)
        found = fit_calibration(
            population.probabilities[drawn], population.gold[drawn], LabelSet(labels, True)
        )
        if isinstance(found, Refusal) or found.before is None or found.after is None:
            continue
        calibrated = found.apply(population.probabilities)
        loss = float(compute_proper_scores(calibrated, population.gold)["log_loss"].mean())
        inside += (found.after.log_loss.low or 0) <= loss <= (found.after.log_loss.high or 0)
        estimated.append((found.after.log_loss.value, found.after.ece))
        measured.append(
            (
                loss,
                compute_ece(calibrated.max(axis=1), calibrated.argmax(axis=1) == population.gold),
            )
        )
        methods.append(found.method)
    (loss_told, ece_told), (loss_true, ece_true) = (
        np.mean(one, axis=0).tolist() for one in (estimated, measured)
    )
    return {
        "set": population.name,
        "draws": len(estimated),
        "log loss before": plain[0],
        "told after": loss_told,
        "true after": loss_true,
        "interval covers": inside / len(estimated),
        "ECE before": plain[1],
        "ECE told after": ece_told,
        "ECE true after": ece_true,
        "methods": " ".join(f"{name} {methods.count(name)}" for name in sorted(set(methods))),
    }


def measure_prediction_sets(population: Predictions, draws: int) -> ResultRow:
    """The truths that sets fitted on 371 rows miss in the population: at most 10 % on average."""
    missed, sizes = [], []
    for seed in range(draws):
        drawn = np.random.default_rng(seed).integers(0, len(population.gold), 371)
        found = fit_prediction_sets(
            population.probabilities[drawn], population.gold[drawn], miss=0.1
        )
        assert isinstance(found, PredictionSets)
        sets = found.apply(population.probabilities)
        missed.append(1 - float(sets[np.arange(len(sets)), population.gold].mean()))
        sizes.append(float(sets.sum(axis=1).mean()))
    error = float(np.std(missed) / np.sqrt(draws))
    return {
        "set": population.name,
        "draws": draws,
        "missed": float(np.mean(missed)),
        "error": error,
        "size": float(np.mean(sizes)),
    }


def measure_audit(population: Predictions, draws: int) -> ResultRow:
    """Coverage and width of audits with 120 looks, beside as many rows drawn plainly, whose
    interval is Wilson's.
    """
    answers = population.answers
    confidence = population.confidence
    gold = population.gold
    right = population.is_right
    labels = range(population.probabilities.shape[1])
    shares = np.bincount(gold, minlength=len(labels)) / len(gold)
    gold_matrix = gold[:, None] == np.array(labels)
    answer_matrix = (answers[:, None] == np.array(labels)).astype(float)
    hits, values, widths, simple_widths, simple_hits = 0, [], [], [], 0
    covers, narrow = np.zeros(len(labels)), np.zeros((2, len(labels)))
    for seed in range(draws):
        plan = plan_audit(answers, confidence, AUDIT_ROWS, seed)
        rows = plan.sampled_rows
        found = estimate_audit(
            plan,
            rows,
            right[rows],
            confidence,
            LabelColumns(list(map(str, labels)), gold_matrix[rows], answer_matrix),
        )
        assert not isinstance(found, Refusal)
        low, high = found.accuracy.low or 0.0, found.accuracy.high or 0.0
        hits += low <= right.mean() <= high
        values.append(found.accuracy.value)
        widths.append(high - low)
        drawn = np.random.default_rng([seed, 1]).choice(len(gold), AUDIT_ROWS, replace=False)
        low, high = compute_wilson_bounds(np.array([right[drawn].sum()]), np.array([AUDIT_ROWS]))[
            :, 0
        ].tolist()
        simple_widths.append(high - low)
        simple_hits += low <= right.mean() <= high
        bounds = np.array(
            [[one.estimate.low or 0.0, one.estimate.high or 0.0] for one in found.prevalences]
        ).T
        covers += (bounds[0] <= shares) & (shares <= bounds[1])
        wilson = compute_wilson_bounds(
            gold_matrix[drawn].sum(axis=0), np.full(len(labels), AUDIT_ROWS)
        )
        narrow += [bounds[1] - bounds[0], wilson[1] - wilson[0]]
    return {
        "set": population.name,
        "accuracy": float(right.mean()),
        "draws": draws,
        "covers": hits / draws,
        "bias": float(np.mean(values) - right.mean()),
        "width": float(np.mean(widths)),
        "width_ratio": float(np.mean(widths) / np.mean(simple_widths)),
        "plain_covers": simple_hits / draws,
        "labels": len(labels),
        "prevalences_cover": float(covers.mean() / draws),
        "worst_prevalence_covers": float(covers.min() / draws),
        "prevalence_width_ratio": float(narrow[0].sum() / narrow[1].sum()),
    }


def print_rows(title: str, lines: list[ResultRow]) -> None:
    print(f"\n{title}\n  " + " | ".join(lines[0]))
    for line in lines:
        print(
            "  "
            + " | ".join(
                f"{value:.3f}" if isinstance(value, float) else str(value)
                for value in line.values()
            )
        )


def run_all(data: Path, scale: float) -> dict[str, list[ResultRow]]:
    real = [predict_set(data / name) for name in SETS]
    for one in real:
        print(
            f"{one.name}: {len(one.gold):,} predictions, accuracy {one.is_right.mean():.3f}, mean "
            f"confidence {one.confidence.mean():.3f}"
        )
    simulated = [simulate(accuracy) for accuracy in (0.5, 0.7, 0.9, 0.95, 0.98)]
    draws = max(10, int(200 * scale))
    parts: dict[str, Callable[[], list[ResultRow]]] = {
        "acceptance, with 95 % confidence": lambda: [
            measure_acceptance(one, draws, *promise)
            for one in (*real, simulated[2], simulate_edge())
            for promise in ACCEPTANCE_SETTINGS
        ],
        "calibration from 371 rows": lambda: [
            measure_calibration(one, max(5, int(40 * scale))) for one in real
        ],
        "prediction sets: at most 10 % missed": lambda: [
            measure_prediction_sets(one, draws) for one in real
        ],
        f"audit: {AUDIT_ROWS} looks": lambda: [
            measure_audit(one, max(10, int(500 * scale))) for one in (*simulated, *real)
        ],
    }
    found: dict[str, list[ResultRow]] = {}
    for title, measure in parts.items():
        start = time.perf_counter()
        found[title] = measure()
        print_rows(f"{title} ({time.perf_counter() - start:.0f} s)", found[title])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public sets")
    parser.add_argument("--quick", action="store_true", help="a tenth of the resamples")
    parser.add_argument("--out", type=Path, help="where to write all figures as JSON")
    arguments = parser.parse_args()
    found = run_all(arguments.data, 0.1 if arguments.quick else 1.0)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
