"""Training of a linear model: logistic regression on words and character n-grams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtask.engines.linear import save_linear
from medtask.errors import InputError
from medtask.evaluation.baselines.classifier_search import (
    DEFAULT_SETTINGS,
    MAX_EVALUATIONS,
    Evaluated,
    HeldOutRows,
    build_folds,
    predict_held_out,
    search_settings,
)
from medtask.evaluation.baselines.ridge import hash_row
from medtask.evaluation.baselines.text_classifier import (
    NORMAL_FORM,
    ClassifierSettings,
    TermCounts,
    count_terms,
    fit_text_classifier,
)
from medtask.evaluation.statistics.label_thresholds import fit_thresholds
from medtask.runs.signals import Interrupted
from medtask.tasks.kinds import get_task_kind
from medtask.training.recipe import Recipe
from medtask.training.targets import LabelledTexts, LabelTargets, build_label_targets
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData
from medtask.training.training_log import TrainingPoint

# Settings are chosen by cross-validation on the training rows if there are few validation rows, or
# if the texts are so short that this takes seconds.
MIN_VALIDATION_ROWS = 100
MAX_CROSS_VALIDATION_ENTRIES = 10_000_000
# Of more training rows, a fixed sample chooses the settings; the model is fitted on all of them.
MAX_SEARCH_ROWS = 20_000
BASE = "tf-idf"


# Receives evaluated settings and their number, which counts from 1; before, what they are
# evaluated on ("": too few rows), and 0.
SettingsObserver = Callable[[Evaluated | str, int], None]


def _ignore_settings(evaluated: Evaluated | str, number: int) -> None: ...


def fit_linear(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train a linear model, and save it in the draft folder; see `train_linear`.

    A signal ends the search for settings, and the best settings so far are used.

    Raises:
        UsageError, InputError: See `build_label_targets` and `train_linear`.
    """

    def report(evaluated: Evaluated | str, number: int) -> None:
        if isinstance(evaluated, str):
            if evaluated:
                context.observer.on_note(f"each step measures other settings on {evaluated}")
            context.observer.on_start(MAX_EVALUATIONS, 0)
            return
        point = TrainingPoint(number, MAX_EVALUATIONS, epoch=0.0)
        context.log.add(replace(point, validation_loss=evaluated.loss, score=evaluated.score))
        context.signals.raise_if_caught()

    targets = build_label_targets(training_data, "linear")
    return train_linear(targets, context.draft_folder, report)


def train_linear(
    targets: LabelTargets,
    folder: Path,
    report: SettingsObserver = _ignore_settings,
    settings: ClassifierSettings | None = None,
) -> MethodResult:
    """Train TF-IDF and one logistic regression per label, and save them in a folder.

    Features, number of terms and penalty are chosen by the lowest loss on the validation rows, or
    in a cross-validation, unless ``settings`` are given. Training is deterministic.

    Raises:
        InputError: The texts have no letters.
    """
    import sklearn

    train = targets.train
    try:
        counts = count_terms(train.texts)
    except ValueError:
        raise InputError(
            "the texts of the training rows have no words",
            fix="name the column with the text under `input:` in the task",
        ) from None
    folds = _select_search_rows(targets, counts)
    if settings is not None and settings.features in counts.list_features():
        chosen, interrupted = Evaluated(settings, 0.0, 0.0), False
    else:
        chosen, interrupted = _search(targets, counts, folds, report)
    model = fit_text_classifier(counts, train.gold, targets.labels, chosen.settings)
    vectorizers = model.build_vectorizers(counts)
    trained = save_linear(
        folder, vectorizers, model.classifier, targets.describe_model("linear", BASE), NORMAL_FORM
    )
    facts = {
        "features": chosen.settings.features,
        "terms": sum(len(one.vocabulary_) for one in vectorizers),
        "strength": chosen.settings.strength,
        "chosen_by": _describe_search_rows(folds),
        "scikit-learn": sklearn.__version__,
    }
    thresholds = {} if interrupted else _fit_thresholds(targets, counts, chosen.settings)
    return MethodResult(trained, interrupted, targets.notes, facts, thresholds)


def _fit_thresholds(
    targets: LabelTargets, counts: TermCounts, settings: ClassifierSettings
) -> dict[str, float]:
    """The thresholds of several labels, on out-of-fold probabilities of the training rows."""
    kind = get_task_kind(targets.task)
    if kind.with_threshold_fit() is None:
        return {}
    folds = _build_held_out_rows(counts, targets.train)
    if not folds:
        return {}
    probabilities = predict_held_out(folds, targets.labels, settings)
    truth = np.concatenate([fold.other_gold for fold in folds]) == 1
    fitted = fit_thresholds(probabilities, truth, *(kind.threshold_fit or ()))
    return dict(zip(targets.labels, fitted, strict=True))


def _select_search_rows(targets: LabelTargets, counts: TermCounts) -> list[HeldOutRows]:
    """The rows that settings are fitted and evaluated on; none if there are too few."""
    train, validation = targets.train, targets.validation
    rows = _sample_rows(train)
    entries = sum(table.nnz for table in counts.counts.values()) * len(targets.labels)
    if len(validation.texts) >= MIN_VALIDATION_ROWS and entries > MAX_CROSS_VALIDATION_ENTRIES:
        validation_counts = counts.count_texts(validation.texts)
        return [
            HeldOutRows(
                counts.select_rows(rows), train.gold[rows], validation_counts, validation.gold
            )
        ]
    return _build_held_out_rows(counts.select_rows(rows), train.select_rows(rows))


def _describe_search_rows(folds: Sequence[HeldOutRows]) -> str:
    if not folds:
        return ""
    if len(folds) == 1:
        return f"{len(folds[0].other_gold):,} validation rows"
    return f"{len(folds)} folds of the training rows"


def _build_held_out_rows(counts: TermCounts, texts: LabelledTexts) -> list[HeldOutRows]:
    return [
        HeldOutRows(
            counts.select_rows(train),
            texts.gold[train],
            counts.select_rows(other),
            texts.gold[other],
        )
        for train, other in build_folds(texts.texts, texts.gold, texts.groups)
    ]


def _sample_rows(texts: LabelledTexts) -> NDArray[np.int64]:
    """At most `MAX_SEARCH_ROWS` rows, independent of their order."""
    count = len(texts.texts)
    if count <= MAX_SEARCH_ROWS:
        return np.arange(count)
    keys = [
        hash_row(text, gold) for text, gold in zip(texts.texts, texts.gold.tolist(), strict=True)
    ]
    return np.sort(np.array(sorted(range(count), key=keys.__getitem__)[:MAX_SEARCH_ROWS]))


def _search(
    targets: LabelTargets,
    counts: TermCounts,
    folds: Sequence[HeldOutRows],
    report: SettingsObserver,
) -> tuple[Evaluated, bool]:
    """The best settings, and whether a signal ended the search."""
    features = counts.list_features()
    default = replace(DEFAULT_SETTINGS, features=features[-1])
    best, number = Evaluated(default, float("inf"), 0.0), 0
    report(_describe_search_rows(folds), 0)
    try:
        for number, found in enumerate(
            search_settings(folds, targets.labels, features) if folds else (), 1
        ):
            best = min(best, found, key=lambda one: one.loss)
            report(found, number)
    except Interrupted:
        return best, True
    return best, False
