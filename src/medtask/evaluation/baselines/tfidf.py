"""Baselines trained on TF-IDF features in cross-validation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medtask.evaluation.baselines.context import NO_LIMIT, TimeLimit
from medtask.evaluation.baselines.ridge import (
    RidgeCrossValidation,
    assign_folds,
    compute_text_kernel,
    estimate_operations,
)
from medtask.evaluation.statistics.resampling import FOLDS
from medtask.unicode_text import normalize_text, split_words

MIN_ROWS = 20  # with fewer, a fold has too few rows to train on
PILOT_ROWS = 64  # rows whose time is measured before the others are counted
OPERATIONS_PER_SECOND = 5e9  # of one thread that solves linear systems, on a busy machine
_NO_WORDS = "the texts have no words to learn from"
_TOO_FEW_OF_EACH = "too few rows of each label to train on"


def cross_validate_labels(
    texts: Sequence[str],
    gold: Sequence[str],
    groups: Sequence[str | None],
    seed: int,
    limit: TimeLimit = NO_LIMIT,
) -> list[str] | str:
    """Predict each row's label by a model trained on the other folds, or return why not.

    If the time is too short for all rows, the first rows are used only.
    """
    n_rows = count_affordable_rows(texts, len(set(gold)), limit.seconds)
    texts, gold, groups = texts[:n_rows], gold[:n_rows], groups[:n_rows]
    rows = Counter(gold)
    if len(gold) >= MIN_ROWS and (
        sum(count >= 2 for count in rows.values()) < 2 or max(rows.values()) < FOLDS
    ):
        return _TOO_FEW_OF_EACH
    prepared = _prepare(texts, gold, groups, seed)
    if isinstance(prepared, str):
        return prepared
    names = sorted(rows)
    predicted = prepared.predict_labels(np.array([names.index(name) for name in gold]), len(names))
    return [names[index] for index in predicted]


def cross_validate_label_sets(
    texts: Sequence[str],
    gold: Sequence[Sequence[str]],
    names: Sequence[str],
    groups: Sequence[str | None],
    seed: int,
    limit: TimeLimit = NO_LIMIT,
) -> list[tuple[str, ...]] | str:
    """Predict each row's labels by a model trained on the other folds, or return why not.

    Each label has a threshold, fitted for F1 on these other folds. If the time is too short for all
    rows, the first rows are used only.
    """
    n_rows = count_affordable_rows(texts, len(names), limit.seconds)
    texts, gold, groups = texts[:n_rows], gold[:n_rows], groups[:n_rows]
    rows = Counter(name for truth in gold for name in truth)
    learnable = [name for name in names if FOLDS <= rows[name] < len(gold)]
    if len(gold) >= MIN_ROWS and not learnable:
        return _TOO_FEW_OF_EACH
    prepared = _prepare(texts, gold, groups, seed)
    if isinstance(prepared, str):
        return prepared
    predicted = prepared.predict_label_sets(
        np.array([[name in truth for name in learnable] for truth in gold])
    )
    return [
        tuple(name for name, applies in zip(learnable, row, strict=True) if applies)
        for row in predicted
    ]


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


def count_affordable_rows(texts: Sequence[str], n_labels: int, seconds: float) -> int:
    """The number of first texts whose cross-validation takes at most ``seconds``.

    It is estimated from the time of a few rows, and if that is not enough, from that of as many
    rows as take about a tenth of the time: longer tables repeat more of their words.
    """
    if math.isinf(seconds) or len(texts) <= PILOT_ROWS:
        return len(texts)
    import sklearn.feature_extraction.text  # noqa: F401 - its import is not part of the measured time

    sizes = np.arange(1, len(texts) + 1)
    characters = np.cumsum([len(text) for text in texts])
    solving = estimate_operations(sizes, n_labels) / OPERATIONS_PER_SECOND
    started, pilot = time.monotonic(), PILOT_ROWS
    for share in (0.1, 1.0):
        seconds_per_character = _measure_kernel(texts[:pilot]) / max(1, characters[pilot - 1])
        left = seconds - (time.monotonic() - started)
        n_rows = int((characters * seconds_per_character + solving <= left).sum())
        if n_rows == len(texts):
            break
        if share < 1:
            pilot = max(pilot, int((characters * seconds_per_character <= share * left).sum()))
    return max(n_rows, MIN_ROWS)


def _measure_kernel(texts: Sequence[str]) -> float:
    started = time.monotonic()
    try:
        compute_text_kernel(texts)
    except ValueError:  # texts without words
        return 0.0
    return time.monotonic() - started


def _prepare(
    texts: Sequence[str], gold: Sequence[object], groups: Sequence[str | None], seed: int
) -> RidgeCrossValidation | str:
    if len(gold) < MIN_ROWS:
        return f"too few rows with gold to train on ({len(gold)}; {MIN_ROWS} are needed)"
    try:
        kernel = compute_text_kernel(texts)
    except ValueError:
        return _NO_WORDS
    folds = assign_folds(texts, gold, groups or [None] * len(texts), seed)
    if folds is None:
        return f"fewer than {FOLDS} groups of rows to train on"
    return RidgeCrossValidation(kernel, folds)
