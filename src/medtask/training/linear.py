"""Training a linear model: logistic regression on a text's words and letters, chosen by what it
says of other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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
# validation rows to choose by; where they are fewer, the rows to learn from take turns at it
MIN_VALIDATION_ROWS = 100
FOLDS = 5
BASE = "tf-idf"


@dataclass(frozen=True, slots=True)
class LinearSettings:
    """One way to train. ``strength``: scikit-learn's C. ``loss`` and ``score``: see judge, on rows
    that it did not learn from.
    """

    features: str
    strength: float
    loss: float = float("inf")
    score: float = 0.0


def fit_linear(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train TF-IDF and one logistic regression per label, and save them in the draft (see
    save_linear).

    Features and strength are those with the lowest loss on the validation rows, or in a cross
    validation where these are few. Nothing is drawn by chance: the same rows give the same model. A
    signal ends the search with the best so far.

    UsageError and InputError: see read_targets.
    """
    import sklearn

    targets = build_label_targets(training_data, "linear")
    folds = _build_folds(targets)
    chosen, stopped = _search(targets, folds, context)
    vectorizers = _fit_vectorizers(chosen.features, targets, targets.train)
    classifier = _fit_classifier(
        targets, targets.train, _vectorize_texts(vectorizers, targets.train.texts), chosen.strength
    )
    trained = save_linear(
        context.draft_folder, vectorizers, classifier, targets.describe_model("linear", BASE)
    )
    facts = {
        "features": chosen.features,
        "terms": sum(len(one.vocabulary_) for one in vectorizers),
        "strength": chosen.strength,
        "chosen_by": f"{len(targets.validation.texts):,} validation rows"
        if len(folds) == 1
        else f"{len(folds)} folds",
        "scikit-learn": sklearn.__version__,
    }
    return MethodResult(trained, stopped, targets.notes, facts)


@dataclass(frozen=True, slots=True)
class _ValidationFold:
    """Rows to learn from, and others to judge by."""

    train: LabelledTexts
    validation: LabelledTexts


def _build_folds(targets: LabelTargets) -> list[_ValidationFold]:
    """The rows that choices are judged by; none where there are too few even for folds."""
    from sklearn.model_selection import GroupKFold

    train = targets.train
    if len(targets.validation.texts) >= MIN_VALIDATION_ROWS:
        return [_ValidationFold(train, targets.validation)]
    # A row without a group is its own, named by what it says: the same rows in another order make
    # the same folds.
    groups = [
        group or hash_row(text, gold).hex()
        for group, text, gold in zip(train.groups, train.texts, train.gold.tolist(), strict=True)
    ]
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        return []
    search_data = GroupKFold(folds).split(train.texts, groups=np.asarray(groups))
    validation_folds = [
        _ValidationFold(train.select_rows(train_rows), train.select_rows(validation_rows))
        for train_rows, validation_rows in search_data
    ]
    return [
        trial
        for trial in validation_folds
        if targets.several or len(set(trial.train.gold.tolist())) > 1
    ]


def _search(
    targets: LabelTargets, folds: Sequence[_ValidationFold], context: TrainingContext
) -> tuple[LinearSettings, bool]:
    """The best choice, and whether a signal ended the search."""
    best = LinearSettings(
        "letters", 10.0
    )  # what served most sets best, where there is nothing to choose by
    steps, tried = len(FEATURES) * len(STRENGTHS), 0
    try:
        context.observer.on_start(steps, 0)
        for tried, choice in _evaluate_settings(targets, folds):
            context.log.add(
                TrainingPoint(
                    tried, steps, tried / steps, validation_loss=choice.loss, score=choice.score
                )
            )
            best = min(best, choice, key=lambda one: one.loss)
            context.signals.raise_if_caught()
    except Interrupted:
        if not tried:
            raise
        return best, True
    return best, False


def _evaluate_settings(
    targets: LabelTargets, folds: Sequence[_ValidationFold]
) -> Iterator[tuple[int, LinearSettings]]:
    """Each choice as the trials judge it, with its place among all of them.

    Along the strengths the loss falls and then rises: behind the first rise nothing better comes.
    """
    for index, features in enumerate(FEATURES):
        try:
            vectorizers = [_fit_vectorizers(features, targets, trial.train) for trial in folds]
        except ValueError:
            continue  # an empty vocabulary: "a b" has letters and no words
        features_by_fold = [
            [_vectorize_texts(one, part.texts) for part in (trial.train, trial.validation)]
            for one, trial in zip(vectorizers, folds, strict=True)
        ]
        before = float("inf")
        for number, strength in enumerate(STRENGTHS if folds else (), 1):
            classifiers = [
                _fit_classifier(targets, trial.train, terms[0], strength)
                for trial, terms in zip(folds, features_by_fold, strict=True)
            ]
            probabilities = [
                _predict(targets, one, terms[1])
                for one, terms in zip(classifiers, features_by_fold, strict=True)
            ]
            loss, score = compute_loss_and_accuracy(
                targets,
                np.concatenate([trial.validation.gold for trial in folds]),
                np.concatenate(probabilities),
            )
            yield index * len(STRENGTHS) + number, LinearSettings(features, strength, loss, score)
            if loss > before:
                break
            before = loss


def _fit_vectorizers(features: str, targets: LabelTargets, texts: LabelledTexts) -> list[Any]:
    """Vectorizers that know the terms of texts; ValueError where there are none."""
    make = {"words": build_vectorizer, "letters": _build_char_vectorizer}
    return [make[part](len(targets.labels)).fit(texts.texts) for part in FEATURES[features]]


def _build_char_vectorizer(label_count: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Runs of letters inside words, the blanks at their ends included: they see stems ("-ectomy"),
    # compounds and typing errors.
    return TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        sublinear_tf=True,
        max_features=min(50_000, 10_000_000 // label_count),
    )


def _vectorize_texts(vectorizers: Sequence[Any], texts: Sequence[str]) -> Any:
    """[texts, terms], the terms of all vectorizers side by side."""
    from scipy.sparse import hstack

    return hstack([one.transform(texts) for one in vectorizers], format="csr")


def _fit_classifier(
    targets: LabelTargets, texts: LabelledTexts, terms: Any, strength: float
) -> Any:
    """A fitted classifier; of one label among several it was fitted on their names."""
    gold = (
        texts.gold
        if targets.several
        else np.asarray(targets.labels, dtype=object)[texts.gold].astype(str)
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a fold may lack a label: that costs the trial, and every choice the same
        return build_classifier(strength).fit(terms, gold)


def _predict(targets: LabelTargets, classifier: Any, terms: Any) -> NDArray[np.float64]:
    """Probabilities [rows, labels]; 0 for labels that it does not know."""
    found: NDArray[np.float64] = classifier.predict_proba(terms)
    if targets.several:
        return found[:, -len(targets.labels) :]  # a lone label comes with its opposite before it
    probabilities = np.zeros((found.shape[0], len(targets.labels)))
    probabilities[:, [targets.labels.index(str(name)) for name in classifier.classes_]] = found
    return probabilities
