"""Baselines trained on TF-IDF features in cross-validation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from medtask.evaluation.statistics.resampling import FOLDS
from medtask.unicode_text import normalize_text, split_words

MIN_ROWS = 20  # with fewer, a fold has too few rows to train on
_NO_WORDS = "the texts have no words to learn from"


def cross_validate_labels(texts: Sequence[str], gold: Sequence[str], seed: int) -> list[str] | str:
    """Predict each row's label by a model trained on the other folds, or return why not."""
    from sklearn.model_selection import StratifiedKFold

    rows = Counter(gold)
    if len(gold) < MIN_ROWS:
        return _explain_too_few_rows(len(gold))
    if sum(count >= 2 for count in rows.values()) < 2 or max(rows.values()) < FOLDS:
        return "too few rows of each label to train on"
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found = _predict_folds(texts, np.asarray(gold, dtype=object), folds, len(rows))
    return [str(name) for name in found] if found is not None else _NO_WORDS


def cross_validate_label_sets(
    texts: Sequence[str], gold: Sequence[Sequence[str]], names: Sequence[str], seed: int
) -> list[tuple[str, ...]] | str:
    """Predict each row's labels by one model per label, trained on the other folds, or return why
    not.
    """
    from sklearn.model_selection import KFold

    if len(gold) < MIN_ROWS:
        return _explain_too_few_rows(len(gold))
    rows = Counter(name for truth in gold for name in truth)
    learnable = [name for name in names if FOLDS <= rows[name] < len(gold)]
    if not learnable:
        return "too few rows of each label to train on"
    table = np.array([[name in truth for name in learnable] for truth in gold], dtype=np.int64)
    found = _predict_folds(
        texts, table, KFold(FOLDS, shuffle=True, random_state=seed), len(learnable)
    )
    if found is None:
        return _NO_WORDS
    return [tuple(name for name, said in zip(learnable, row, strict=True) if said) for row in found]


def find_nearest_texts(texts: Sequence[str]) -> list[int] | str:
    """The index of each row's most similar row with a different text, or why there is none."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) < 2:
        return "there is no other row with gold"
    try:
        vectors = TfidfVectorizer(
            analyzer=split_words, sublinear_tf=True, max_features=20_000
        ).fit_transform(texts)
    except ValueError:
        return _NO_WORDS
    normalized = np.asarray([normalize_text(text).strip() for text in texts], dtype=object)
    _, same = np.unique(normalized, return_inverse=True)
    nearest: list[int] = []
    for first in range(0, len(texts), 500):
        likeness = (vectors[first : first + 500] @ vectors.T).toarray()
        likeness[same[first : first + 500, None] == same[None, :]] = -1.0
        nearest += likeness.argmax(axis=1).tolist()
    return nearest


def build_vectorizer(n_labels: int) -> Any:
    """TF-IDF features for classification into ``n_labels`` labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Single words: on short clinical texts as good as word pairs. The weights are a dense table of
    # words by labels, so many labels get fewer words.
    return TfidfVectorizer(sublinear_tf=True, max_features=min(20_000, 4_000_000 // n_labels))


def build_classifier(inverse_regularization: float = 10) -> Any:
    """One logistic regression per label; ``inverse_regularization`` is scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    # One liblinear fit per label: as good as one joint fit, and ten times faster.
    return OneVsRestClassifier(LogisticRegression(C=inverse_regularization, solver="liblinear"))


def hash_row(text: str, gold: object) -> bytes:
    """A key that assigns a row to a fold independently of the order of rows."""
    return blake2b(f"{gold} {text}".encode("utf-8", "replace")).digest()


def _predict_folds(texts: Sequence[str], gold: Any, folds: Any, n_labels: int) -> Any:
    """One prediction per row, independent of the order of rows; None if the texts have no words."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(build_vectorizer(n_labels), build_classifier())
    # Folds are assigned by hash, so that a run and a comparison show the same figure.
    keys = [hash_row(text, truth) for text, truth in zip(texts, gold, strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    with warnings.catch_warnings():
        # A label with fewer rows than folds weakens the baseline; it does not make it invalid.
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = cross_val_predict(
                model, [texts[place] for place in order], gold[order], cv=folds
            )
        except ValueError:
            return None
    return found[np.argsort(order)]


def _explain_too_few_rows(rows: int) -> str:
    return f"too few rows with gold to train on ({rows}; {MIN_ROWS} are needed)"
