"""Training of a linear model: logistic regression on words and character n-grams."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medtask.engines.linear import save_linear
from medtask.evaluation.baselines.tfidf import build_classifier, build_vectorizer, hash_row
from medtask.runs.signals import Interrupted
from medtask.training.recipe import Recipe
from medtask.training.targets import (
    LabelledTexts,
    LabelTargets,
    build_label_targets,
    compute_loss_and_accuracy,
)
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData
from medtask.training.training_log import TrainingPoint

FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"words": ("words",), "letters": ("letters",), "words and letters": ("words", "letters")}
)
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# With fewer validation rows, settings are chosen by cross-validation on the training rows.
MIN_VALIDATION_ROWS = 100
FOLDS = 5
BASE = "tf-idf"


@dataclass(frozen=True, slots=True)
class LinearSettings:
    """Settings, and their loss and score on held-out rows. ``strength`` is scikit-learn's C."""

    features: str
    strength: float
    loss: float = float("inf")
    score: float = 0.0


class SettingsObserver(Protocol):
    """Receives evaluated settings; ``number`` counts from 1 to ``total`` and is 0 at the start."""

    def __call__(self, settings: LinearSettings, number: int, total: int) -> None: ...


def _ignore_settings(settings: LinearSettings, number: int, total: int) -> None: ...


def fit_linear(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train a linear model, and save it in the draft folder; see `train_linear`.

    A signal ends the search for settings, and the best settings so far are used.

    Raises:
        UsageError, InputError: See `build_label_targets`.
    """

    def report(settings: LinearSettings, number: int, total: int) -> None:
        if not number:
            context.observer.on_start(total, 0)
            return
        point = TrainingPoint(number, total, number / total)
        context.log.add(replace(point, validation_loss=settings.loss, score=settings.score))
        context.signals.raise_if_caught()

    targets = build_label_targets(training_data, "linear")
    return train_linear(targets, context.draft_folder, report)


def train_linear(
    targets: LabelTargets, folder: Path, report: SettingsObserver = _ignore_settings
) -> MethodResult:
    """Train TF-IDF and one logistic regression per label, and save them in a folder.

    Features and regularisation are chosen by the lowest loss on the validation rows, or in a
    cross-validation if there are few of them. Training is deterministic.
    """
    import sklearn

    folds = _build_folds(targets)
    chosen, interrupted = _search(targets, folds, report)
    vectorizers = _fit_vectorizers(chosen.features, targets, targets.train)
    terms = _vectorize_texts(vectorizers, targets.train.texts)
    classifier = _fit_classifier(targets, targets.train, terms, chosen.strength)
    trained = save_linear(folder, vectorizers, classifier, targets.describe_model("linear", BASE))
    facts = {
        "features": chosen.features,
        "terms": sum(len(one.vocabulary_) for one in vectorizers),
        "strength": chosen.strength,
        "chosen_by": f"{len(targets.validation.texts):,} validation rows"
        if len(folds) == 1
        else f"{len(folds)} folds",
        "scikit-learn": sklearn.__version__,
    }
    return MethodResult(trained, interrupted, targets.notes, facts)


@dataclass(frozen=True, slots=True)
class _ValidationFold:
    """Rows to train on, and rows to evaluate on."""

    train: LabelledTexts
    validation: LabelledTexts


def _build_folds(targets: LabelTargets) -> list[_ValidationFold]:
    """The folds for evaluating settings; none if there are too few rows."""
    from sklearn.model_selection import GroupKFold

    train = targets.train
    if len(targets.validation.texts) >= MIN_VALIDATION_ROWS:
        return [_ValidationFold(train, targets.validation)]
    # A row without a group is a separate group, named by its content, so that the folds do not
    # depend on the order of rows.
    groups = [
        group or hash_row(text, gold).hex()
        for group, text, gold in zip(train.groups, train.texts, train.gold.tolist(), strict=True)
    ]
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        return []
    splits = GroupKFold(folds).split(train.texts, groups=np.asarray(groups))
    validation_folds = [
        _ValidationFold(train.select_rows(train_rows), train.select_rows(validation_rows))
        for train_rows, validation_rows in splits
    ]
    return [
        fold
        for fold in validation_folds
        if targets.several or len(set(fold.train.gold.tolist())) > 1
    ]


def _search(
    targets: LabelTargets, folds: Sequence[_ValidationFold], report: SettingsObserver
) -> tuple[LinearSettings, bool]:
    """The best settings, and whether a signal ended the search."""
    # Without folds, the settings that were best on most data sets are used.
    best = LinearSettings("letters", 10.0)
    total, number = len(FEATURES) * len(STRENGTHS), 0
    try:
        report(best, 0, total)
        for number, settings in _evaluate_settings(targets, folds):
            best = min(best, settings, key=lambda one: one.loss)
            report(settings, number, total)
    except Interrupted:
        if not number:
            raise
        return best, True
    return best, False


def _evaluate_settings(
    targets: LabelTargets, folds: Sequence[_ValidationFold]
) -> Iterator[tuple[int, LinearSettings]]:
    """All settings with their numbers, loss and score.

    With growing strength the loss falls and then rises, so larger strengths are skipped after the
    first rise.
    """
    for index, features in enumerate(FEATURES):
        try:
            vectorizers = [_fit_vectorizers(features, targets, fold.train) for fold in folds]
        except ValueError:
            continue  # the vocabulary is empty: "a b" has letters, but no words
        features_by_fold = [
            [_vectorize_texts(one, part.texts) for part in (fold.train, fold.validation)]
            for one, fold in zip(vectorizers, folds, strict=True)
        ]
        before = float("inf")
        for number, strength in enumerate(STRENGTHS if folds else (), 1):
            classifiers = [
                _fit_classifier(targets, fold.train, terms[0], strength)
                for fold, terms in zip(folds, features_by_fold, strict=True)
            ]
            probabilities = [
                _predict(targets, one, terms[1])
                for one, terms in zip(classifiers, features_by_fold, strict=True)
            ]
            loss, score = compute_loss_and_accuracy(
                targets,
                np.concatenate([fold.validation.gold for fold in folds]),
                np.concatenate(probabilities),
            )
            yield index * len(STRENGTHS) + number, LinearSettings(features, strength, loss, score)
            if loss > before:
                break
            before = loss


def _fit_vectorizers(features: str, targets: LabelTargets, texts: LabelledTexts) -> list[Any]:
    """Vectorizers fitted on texts. Raises ValueError if the texts have no terms."""
    make = {"words": build_vectorizer, "letters": _build_char_vectorizer}
    return [make[part](len(targets.labels)).fit(texts.texts) for part in FEATURES[features]]


def _build_char_vectorizer(label_count: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Character n-grams inside words, with the spaces at their ends, match stems ("-ectomy"),
    # compounds and typing errors.
    return TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        sublinear_tf=True,
        max_features=min(50_000, 10_000_000 // label_count),
    )


def _vectorize_texts(vectorizers: Sequence[Any], texts: Sequence[str]) -> Any:
    """The terms of all vectorizers side by side [texts, terms]."""
    from scipy.sparse import hstack

    return hstack([one.transform(texts) for one in vectorizers], format="csr")


def _fit_classifier(
    targets: LabelTargets, texts: LabelledTexts, terms: Any, strength: float
) -> Any:
    """A fitted classifier; for one label per row its classes are the labels' names."""
    gold = (
        texts.gold
        if targets.several
        else np.asarray(targets.labels, dtype=object)[texts.gold].astype(str)
    )
    with warnings.catch_warnings():
        # A fold may lack a label; this affects all settings alike.
        warnings.simplefilter("ignore", UserWarning)
        return build_classifier(strength).fit(terms, gold)


def _predict(targets: LabelTargets, classifier: Any, terms: Any) -> NDArray[np.float64]:
    """Probabilities [rows, labels]; 0 for labels that the classifier was not fitted on."""
    found: NDArray[np.float64] = classifier.predict_proba(terms)
    if targets.several:
        return found[
            :, -len(targets.labels) :
        ]  # a single label is stored with its complement before it
    probabilities = np.zeros((found.shape[0], len(targets.labels)))
    probabilities[:, [targets.labels.index(str(name)) for name in classifier.classes_]] = found
    return probabilities
