"""Search for the features, number of terms and penalty of a text classifier on held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.baselines.ridge import hash_row
from medtask.evaluation.baselines.text_classifier import (
    FEATURES,
    ClassifierSettings,
    TermCounts,
    fit_text_classifier,
)
from medtask.evaluation.statistics.intervals import MIN_PROBABILITY
from medtask.evaluation.statistics.resampling import FOLDS

TERMS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# The settings that were best on most data sets.
DEFAULT_SETTINGS = ClassifierSettings("words and letters", 10_000, 10.0)
MAX_EVALUATIONS = 15
# Selecting terms makes classifiers of long texts better and those of short texts slightly worse.
_MAX_ENTRIES_OF_SHORT_TEXTS = 1_000_000


def build_folds(
    texts: Sequence[str], gold: NDArray[Any], groups: Sequence[str | None]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Folds as (training rows, other rows) that keep groups together; none if there is one group.

    A row without a group is a separate group, named by its content, so that the folds do not
    depend on the order of rows.
    """
    from sklearn.model_selection import GroupKFold

    names = [
        group or hash_row(text, truth).hex()
        for group, text, truth in zip(groups, texts, gold.tolist(), strict=True)
    ]
    count = min(FOLDS, len(set(names)))
    if count < 2:
        return []
    splits = list(GroupKFold(count).split(names, groups=np.asarray(names)))
    return [
        (train, other) for train, other in splits if gold.ndim == 2 or len(set(gold[train])) > 1
    ]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Settings with their mean log loss and share of right decisions on held-out rows."""

    settings: ClassifierSettings
    loss: float
    score: float


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """Rows to fit on, and rows to predict."""

    train: TermCounts
    train_gold: NDArray[Any]
    other: TermCounts
    other_gold: NDArray[Any]


def evaluate_settings(
    folds: Sequence[HeldOutRows], labels: Sequence[str], settings: ClassifierSettings
) -> Evaluated:
    """Fit on each fold and evaluate the predictions of the held-out rows."""
    gold = np.concatenate([fold.other_gold for fold in folds])
    probabilities = predict_held_out(folds, labels, settings)
    return Evaluated(settings, *compute_loss_and_accuracy(gold, probabilities))


def predict_held_out(
    folds: Sequence[HeldOutRows], labels: Sequence[str], settings: ClassifierSettings
) -> NDArray[np.float64]:
    """The probabilities of the held-out rows of all folds, one fold after the other."""
    return np.concatenate(
        [
            fit_text_classifier(fold.train, fold.train_gold, labels, settings).predict(fold.other)
            for fold in folds
        ]
    )


def compute_loss_and_accuracy(
    gold: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[float, float]:
    """The mean log loss, in nats, and the share of right decisions.

    Args:
        gold: The label of each row [rows], or a table of 0 and 1 [rows, labels]; then both are
            means over the decisions.
        probabilities: [rows, labels].
    """
    if gold.ndim == 2:
        given = np.where(gold == 1, probabilities, 1 - probabilities)
        right = (probabilities >= 0.5) == (gold == 1)
    else:
        given = probabilities[np.arange(len(gold)), gold]
        right = probabilities.argmax(axis=1) == gold
    return float(-np.log(np.maximum(given, MIN_PROBABILITY)).mean()), float(right.mean())


def search_settings(
    folds: Sequence[HeldOutRows], labels: Sequence[str], features: Sequence[str]
) -> Iterator[Evaluated]:
    """Evaluate settings, most promising first; the best are those with the lowest loss.

    First the features are compared, then the strength and the number of terms are changed by one
    step at a time while the loss falls. Along each of them the loss has one minimum, so this
    evaluates about ten of all combinations.
    """
    counts = folds[0].train
    pending = [_start_search(counts, name) for name in features]
    best: Evaluated | None = None
    seen: set[ClassifierSettings] = set()
    while pending and len(seen) < MAX_EVALUATIONS:
        settings = pending.pop(0)
        seen.add(settings)
        found = evaluate_settings(folds, labels, settings)
        yield found
        if best is None or found.loss < best.loss:
            best = found
        elif pending:
            continue
        if len(seen) < len(features):
            continue
        pending = [one for one in _list_neighbours(best.settings, counts) if one not in seen]


def _start_search(counts: TermCounts, features: str) -> ClassifierSettings:
    """The first settings: all terms of short texts, and the most informative ones of long texts."""
    tables = [counts.counts[name] for name in FEATURES[features]]
    terms = DEFAULT_SETTINGS.terms
    if sum(table.nnz for table in tables) <= _MAX_ENTRIES_OF_SHORT_TEXTS:
        available = _count_available_terms(counts, features)
        terms = next((one for one in TERMS if one >= available), TERMS[-1])
    return replace(DEFAULT_SETTINGS, features=features, terms=terms)


def _list_neighbours(settings: ClassifierSettings, counts: TermCounts) -> list[ClassifierSettings]:
    """The settings one step away; more terms than there are would change nothing."""
    strength, terms = STRENGTHS.index(settings.strength), TERMS.index(settings.terms)
    available = _count_available_terms(counts, settings.features)
    found = [
        replace(settings, strength=STRENGTHS[index])
        for index in (strength + 1, strength - 1)
        if 0 <= index < len(STRENGTHS)
    ]
    return found + [
        replace(settings, terms=TERMS[index])
        for index in (terms - 1, terms + 1)
        if 0 <= index < len(TERMS) and (index < terms or settings.terms < available)
    ]


def _count_available_terms(counts: TermCounts, features: str) -> int:
    return sum(counts.counts[name].shape[1] for name in FEATURES[features])
