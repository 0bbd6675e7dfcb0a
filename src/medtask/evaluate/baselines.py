"""What simple methods reach on the same rows, and whether the model is better than they are."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medtask.errors import MissingExtra
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.metrics import count_pairs, grade_counts
from medtask.evaluate.similarity import encode

FOLDS = 5
MIN_ROWS = 20  # with fewer, a fold is too small to learn from
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """A baseline against the model, row by row (McNemar's exact test on the rows where one of them alone is right).

    ``verdict`` is the baseline's; it is "no clear difference" where ``p`` is 0.05 or more. ``model``: the model's
    accuracy on these rows.
    """

    verdict: Literal["better", "worse", "no clear difference"]
    p: float
    model: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """One simple method on the rows with gold. ``note`` says why there are no numbers; else it is empty."""

    name: str
    method: str
    accuracy: Estimate | None = None
    macro_f1: Estimate | None = None
    versus: Comparison | None = None
    note: str = ""


def run_baselines(
    texts: Sequence[str],
    gold: Sequence[str],
    labels: Sequence[tuple[str, str]],
    *,
    answers: Sequence[str | None] | None = None,
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """TF-IDF, MiniLM and the majority class on the same rows, in this order.

    ``labels``: every allowed answer and its definition ("" where it has none); gold must be among them. ``answers``:
    the model's answers on the same rows, None where it gave none; with them each baseline is compared with the model.
    """
    names = [name for name, _ in labels]
    majority = max(Counter(gold).items(), key=lambda item: (item[1], item[0]))[0] if gold else ""
    learned = f"logistic regression, trained on these rows' own gold in {FOLDS}-fold cross-validation"
    found = (
        (Baseline("TF-IDF", learned), _cross_validate(texts, gold, seed)),
        (Baseline("MiniLM", "the label whose name and definition are nearest in meaning"), _match_definitions(texts, labels)),
        (Baseline("majority", f"the most frequent label in gold for every row, {majority!r}"), [majority] * len(gold)),
    )
    return tuple(_grade(baseline, outcome, gold, names, answers, seed) for baseline, outcome in found)


def describe_comparison(baseline: Baseline) -> str | None:
    """One sentence on how a baseline compares with the model; None where they were not compared."""
    versus, own = baseline.versus, baseline.accuracy
    if versus is None or own is None:
        return None
    figures = f"{own.value:.3f} against {versus.model:.3f} on {own.n:,} rows, {describe_p(versus.p)}"
    who = f"{baseline.name[0].upper()}{baseline.name[1:]} ({baseline.method})"
    if versus.verdict == "no clear difference":
        return f"{who} shows no clear difference from the model here: {figures}."
    caveat = " It learned from gold, which a model that is only prompted does not see." if baseline.name == "TF-IDF" else ""
    return f"{who} is {versus.verdict} than the model here: {figures}.{caveat}"


def describe_p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def warn_of_baselines(baselines: Sequence[Baseline]) -> list[str]:
    """A sentence for each baseline that the model should have beaten and did not, and what to do about it."""
    verdicts = ((baseline, baseline.versus.verdict) for baseline in baselines if baseline.versus)
    ahead = (one for one, verdict in verdicts if verdict == "better" or (one.name == "majority" and verdict != "worse"))
    sentences = [sentence for baseline in ahead if (sentence := describe_comparison(baseline))]
    return [*sentences, "Use a stronger model, or one trained on these labels, before relying on the answers."] if sentences else []


def _grade(
    baseline: Baseline,
    outcome: Sequence[str] | str,
    gold: Sequence[str],
    names: Sequence[str],
    answers: Sequence[str | None] | None,
    seed: int,
) -> Baseline:
    """The baseline with its numbers, or with a note where ``outcome`` is one."""
    if isinstance(outcome, str):
        return Baseline(baseline.name, baseline.method, note=outcome)
    quality = grade_counts(count_pairs(gold, outcome, names), names, seed=seed)
    if quality is None:
        return Baseline(baseline.name, baseline.method, note="no row has gold")
    versus = compare_answers(gold, outcome, answers) if answers is not None else None
    return Baseline(baseline.name, baseline.method, quality.accuracy, quality.macro_f1, versus)


def compare_answers(gold: Sequence[str], baseline: Sequence[str | None], model: Sequence[str | None]) -> Comparison:
    """McNemar's exact test of two methods on the same rows (at least one): a binomial test on the rows they disagree on."""
    from scipy.stats import binomtest

    truth = np.asarray(gold, dtype=object)
    one, other = np.asarray(baseline, dtype=object) == truth, np.asarray(model, dtype=object) == truth
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    verdict: Literal["better", "worse"] = "better" if wins > losses else "worse"
    return Comparison(verdict if p < ALPHA else "no clear difference", p, float(other.mean()))


def _cross_validate(texts: Sequence[str], gold: Sequence[str], seed: int) -> list[str] | str:
    """Each row's label by a model that was trained on the other folds, or why there is none."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    rows = Counter(gold)
    if len(gold) < MIN_ROWS:
        return f"too few rows with gold to train on ({len(gold)}; {MIN_ROWS} are needed)"
    if sum(count >= 2 for count in rows.values()) < 2 or max(rows.values()) < FOLDS:
        return "too few rows of each label to train on"
    # Single words and one liblinear fit per label: on short clinical texts as good as word pairs and one joint fit, and
    # ten times faster. The weights are a dense table of words by labels: with many labels, fewer words.
    words = TfidfVectorizer(sublinear_tf=True, max_features=min(20_000, 4_000_000 // len(rows)))
    model = make_pipeline(words, OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear")))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A label with fewer rows than folds makes a weaker baseline, not a wrong one.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return [str(name) for name in cross_val_predict(model, list(texts), np.asarray(gold, dtype=object), cv=folds)]
        except ValueError:
            return "the texts hold no words to learn from"


def _match_definitions(texts: Sequence[str], labels: Sequence[tuple[str, str]]) -> list[str] | str:
    """Each row's label whose "name: definition" is nearest, or why there is none."""
    if not texts or not labels:
        return "no row has gold"
    try:
        wanted = encode([f"{name}: {definition}" if definition else name for name, definition in labels])
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    nearest = (encode(texts) @ wanted.T).argmax(axis=1)
    return [labels[place][0] for place in nearest]
