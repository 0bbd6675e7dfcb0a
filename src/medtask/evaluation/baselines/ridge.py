"""Linear classifiers on TF-IDF features, in nested cross-validation.

The scores of a row come from a model that was not trained on the row. Penalty and thresholds of a
fold are chosen on the other folds, by scores of models that saw neither that fold nor the scored
rows.

Regularised least squares (ridge regression; Rifkin and Klautau, 2004, "In Defense of One-Vs-All
Classification") needs one system of equations for all labels of a fold, so that this takes seconds
for 2,000 texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.baselines.letter_counts import LetterCounter
from medtask.evaluation.statistics.intervals import FloatArray, IntArray
from medtask.evaluation.statistics.label_thresholds import fit_threshold
from medtask.evaluation.statistics.resampling import FOLDS
from medtask.unicode_text import normalize_text, split_words

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
MAX_SEARCH_LABELS = 100  # with more labels the penalty is not chosen, but 1
# How far scores are raised for rare labels, in units of the logarithm of a label's share.
PRIOR_WEIGHTS = (0.0, 0.075)
LETTER_NGRAMS = (2, 5)

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, slots=True)
class FoldScores(Generic[SettingsT]):
    """The scores of one fold.

    Attributes:
        rows: The rows of the fold.
        train: The rows that the model was trained on.
        scores: The scores of the fold's rows [rows, labels].
        settings: The settings that were chosen on the training rows.
    """

    rows: IntArray
    train: IntArray
    scores: FloatArray
    settings: SettingsT


@dataclass(frozen=True, slots=True)
class RidgeCrossValidation:
    """Rows prepared for cross-validation.

    Attributes:
        kernel: The dot products of the rows' features [rows, rows].
        folds: The fold of each row [rows].
    """

    kernel: FloatArray
    folds: IntArray

    def predict_labels(self, gold: IntArray, n_labels: int) -> IntArray:
        """The label of each row [rows], as an index; chosen for accuracy.

        Args:
            gold: The index of each row's label [rows].
            n_labels: The number of labels.
        """
        targets = np.eye(n_labels)[gold]

        def choose(scores: FloatArray, rows: IntArray) -> tuple[float, float]:
            accuracies = [
                float((_decide_labels(scores, targets[rows], weight) == gold[rows]).mean())
                for weight in PRIOR_WEIGHTS
            ]
            best = int(np.argmax(accuracies))
            return accuracies[best], PRIOR_WEIGHTS[best]

        predicted = np.zeros_like(gold)
        for fold in self._score_folds(targets, choose):
            predicted[fold.rows] = _decide_labels(fold.scores, targets[fold.train], fold.settings)
        return predicted

    def predict_label_sets(self, gold: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The labels of each row [rows, labels]; penalty chosen for micro-F1, thresholds for F1.

        Args:
            gold: Whether each row has each label [rows, labels].
        """

        def choose(scores: FloatArray, rows: IntArray) -> tuple[float, FloatArray]:
            columns = zip(_to_shares(scores).T, gold[rows].T, strict=True)
            thresholds = np.array([fit_threshold(share, true, "f1") for share, true in columns])
            predicted = _to_shares(scores) >= thresholds
            total = int(predicted.sum() + gold[rows].sum())
            return 2 * float((predicted & gold[rows]).sum()) / max(1, total), thresholds

        predicted = np.zeros_like(gold)
        for fold in self._score_folds(gold.astype(float), choose):
            predicted[fold.rows] = _to_shares(fold.scores) >= fold.settings
        return predicted

    def _score_folds(
        self,
        targets: FloatArray,
        choose: Callable[[FloatArray, IntArray], tuple[float, SettingsT]],
    ) -> Iterator[FoldScores[SettingsT]]:
        """The scores of each fold by the model with the best settings.

        Args:
            targets: 1 for the labels of a row, else 0 [rows, labels].
            choose: Returns the quality of scores of some rows, and the settings that reach it.
        """
        from threadpoolctl import threadpool_limits

        names = np.unique(self.folds).tolist()
        best: dict[int, tuple[float, float, SettingsT]] = {}
        # Threads take longer for systems of this size, on a busy machine ten times longer.
        with threadpool_limits(1):
            for penalty in _list_penalties(targets.shape[1]):
                inner = self._score_inner_folds(targets, names, penalty)
                for fold in names:
                    train = np.flatnonzero(self.folds != fold)
                    quality, settings = choose(inner[fold][train], train)
                    if fold not in best or quality > best[fold][0]:
                        best[fold] = quality, penalty, settings
            for fold in names:
                train = np.flatnonzero(self.folds != fold)
                rows = np.flatnonzero(self.folds == fold)
                _, penalty, settings = best[fold]
                scores = self._fit_and_score(targets, train, rows, penalty)
                yield FoldScores(rows, train, scores, settings)

    def _score_inner_folds(
        self, targets: FloatArray, names: Sequence[int], penalty: float
    ) -> dict[int, FloatArray]:
        """For each fold, the scores of all rows outside it [rows, labels].

        A row's score is by a model that was trained without this fold and the fold of the row.
        """
        inner = {fold: np.zeros_like(targets) for fold in names}
        for one, other in combinations(names, 2):
            is_one, is_other = self.folds == one, self.folds == other
            train = np.flatnonzero(~is_one & ~is_other)
            scores = np.zeros_like(targets)
            rows = np.flatnonzero(is_one | is_other)
            scores[rows] = self._fit_and_score(targets, train, rows, penalty)
            inner[other][is_one], inner[one][is_other] = scores[is_one], scores[is_other]
        return inner

    def _fit_and_score(
        self, targets: FloatArray, train: IntArray, rows: IntArray, penalty: float
    ) -> FloatArray:
        """The scores [rows, labels] by a model that is trained on other rows; 0.5 is undecided."""
        from scipy.linalg import solve

        mean = targets[train].mean(axis=0)
        system = self.kernel[np.ix_(train, train)] + penalty * np.eye(len(train))
        weights = solve(system, targets[train] - mean, assume_a="pos", check_finite=False)
        scores: FloatArray = self.kernel[np.ix_(rows, train)] @ weights + mean
        return scores


def estimate_operations(rows: IntArray, n_labels: int) -> FloatArray:
    """The number of floating-point operations of a cross-validation of each number of rows."""
    n_fits = FOLDS * (FOLDS - 1) // 2 * len(_list_penalties(n_labels)) + FOLDS
    train = rows * (FOLDS - 1) / FOLDS
    operations: FloatArray = n_fits * (train**3 / 3 + 4 * train**2 * n_labels)
    return operations


def _list_penalties(n_labels: int) -> Sequence[float]:
    return PENALTIES if n_labels <= MAX_SEARCH_LABELS else (1.0,)


def compute_text_kernel(texts: Sequence[str]) -> FloatArray:
    """The dot products of the texts' TF-IDF features of words and character n-grams.

    Raises:
        ValueError: The texts have no words.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer

    normalized = [normalize_text(text) for text in texts]
    if not any(split_words(text, 1) for text in normalized):
        raise ValueError("the texts have no words")
    words = CountVectorizer(analyzer=split_words).fit_transform(normalized)
    letters = LetterCounter(LETTER_NGRAMS).fit_transform(normalized)
    features = hstack([_weigh_terms(words), _weigh_terms(letters)], format="csr")
    kernel: FloatArray = (features @ features.T).toarray()
    return kernel


def _weigh_terms(counts: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfTransformer

    # A term that occurs in one text only says nothing about other texts.
    shared = np.bincount(counts.indices, minlength=counts.shape[1]) > 1
    if not shared.any():
        return counts[:, :0].astype(float)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts[:, shared])


def assign_folds(
    texts: Sequence[str], gold: Sequence[object], groups: Sequence[str | None], seed: int
) -> IntArray | None:
    """The fold of each row, independent of the order of rows.

    Rows of a group are in the same fold. None if there are fewer groups than folds; a row without
    a group counts as one.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    keys = [hash_row(text, truth) for text, truth in zip(texts, gold, strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    first: dict[str, int] = {}
    units = np.array(
        [
            place if (name := groups[row]) is None else first.setdefault(name, place)
            for place, row in enumerate(order)
        ]
    )
    if len(np.unique(units)) < FOLDS:
        return None
    strata = np.unique([repr(gold[row]) for row in order], return_inverse=True)[1]
    # Sets of labels may all be rare: the splitter needs a stratum with a row for each fold.
    if np.bincount(strata).max() < FOLDS:
        strata = np.zeros_like(strata)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    folds = np.zeros(len(texts), dtype=np.int64)
    with warnings.catch_warnings():
        # A label with fewer rows than folds weakens the baseline; it does not make it invalid.
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(order, strata, units)):
            folds[order[rows]] = fold
    # Few large groups can leave folds empty; two folds are held out at a time.
    return folds if len(np.unique(folds)) > 2 else None


def hash_row(text: str, gold: object) -> bytes:
    """A key that assigns a row to a fold independently of the order of rows."""
    return blake2b(f"{gold} {text}".encode("utf-8", "replace")).digest()


def _decide_labels(scores: FloatArray, train_targets: FloatArray, prior_weight: float) -> IntArray:
    shares = np.maximum(train_targets.mean(axis=0), 1 / (2 * len(train_targets)))
    decided: IntArray = (scores - prior_weight * np.log(shares)).argmax(axis=1)
    return decided


def _to_shares(scores: FloatArray) -> FloatArray:
    """Scores in (0, 1) in the same order, with 0.5 for undecided."""
    shares: FloatArray = 1 / (1 + np.exp(-4 * (scores - 0.5)))
    return shares
