"""Which examples a row is shown: those that resemble it, and the same ones for rows that resemble
each other.

Every row could be shown its own nearest examples; then no two rows' prompts would begin alike, and
a model would read all examples again for every row. So the pool is divided into at most 64 groups,
once per task, and a row is shown the examples nearest to the centre of its group (grouping by
k-means: Lloyd, 1982; choice of examples by similarity: Liu et al., 2022, "What makes good
in-context examples for GPT-3?"). What that costs in likeness buys prefixes that are read once per
group. Which group a row is in depends on the pool and on its own text, never on other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from medtask.tasks.label_definitions import normalize_name
from medtask.tasks.task import ExamplePool
from medtask.tasks.text_cleaning import WORD_PATTERN

MAX_CLUSTERS = 64
_MAX_ITERATIONS = 25
_MAX_FEATURES = 30_000

# Vectors of unit length, one a row: dense or sparse.
_EncodeFunction = Callable[[Sequence[str]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class _ExampleIndex:
    """``ranking``: for each group, the pool's different texts from nearest to its centre to
    farthest. ``normalized_texts``: their texts, folded.
    """

    encode: _EncodeFunction
    centres: Any
    ranking: Any
    normalized_texts: tuple[str, ...]


def select_examples(pool: ExamplePool, text: str) -> tuple[int, ...]:
    """Places in the pool of the examples that a row with this text is shown, the nearest last.

    An example that is the row itself, or says the same, is not shown to it: the next nearest one
    stands in its place.
    """
    index = _build_index(pool)
    # Text that shares no word with the pool is equally near to every centre; it gets the first.
    cluster = int((index.encode([text]) @ index.centres.T).argmax())
    own = normalize_name(text)
    order = [int(place) for place in index.ranking[cluster]]
    spare = (place for place in order[pool.k :] if index.normalized_texts[place] != own)
    selected = [
        place if index.normalized_texts[place] != own else next(spare, None)
        for place in order[: pool.k]
    ]
    return tuple(place for place in reversed(selected) if place is not None)


def find_max_similarity(references: tuple[str, ...], text: str) -> float:
    """The greatest TF-IDF cosine between the text and any known one, in [0, 1]."""
    if not references:
        return 0.0
    encode, vectors = _fit_tfidf(references)
    return float((vectors @ encode([text]).T).max())


@lru_cache(maxsize=8)
def _build_index(pool: ExamplePool) -> _ExampleIndex:
    import numpy as np

    normalized_texts = tuple(map(normalize_name, pool.texts))
    distinct = sorted(
        {fold: place for place, fold in reversed(list(enumerate(normalized_texts)))}.values()
    )
    encode, vectors = _fit_encoder(tuple(pool.texts[place] for place in distinct), pool.by)
    centres = _fit_centres(vectors, min(MAX_CLUSTERS, len(distinct)))
    similarity = np.asarray(centres @ vectors.T)
    # Stable, so that equally near examples keep the pool's order; rounded, because sums differ in
    # their last digits.
    ranking = np.argsort(-similarity.round(6), axis=1, kind="stable")
    # No row is shown more than k, and at most one of the pool's different texts is its own.
    return _ExampleIndex(
        encode, centres, np.asarray(distinct)[ranking[:, : pool.k + 1]], normalized_texts
    )


def _fit_centres(vectors: Any, cluster_count: int) -> Any:
    """The groups' mean vectors, of unit length: [groups, dimensions]."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    # One thread: how a sum is split among threads decides its last digits, and those decide between
    # two near groups.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than groups
        found = KMeans(cluster_count, n_init=1, max_iter=_MAX_ITERATIONS, random_state=0).fit(
            vectors
        )
    return normalize(found.cluster_centers_)


def _fit_encoder(
    texts: tuple[str, ...], by: Literal["tfidf", "minilm"]
) -> tuple[_EncodeFunction, Any]:
    if by == "tfidf":
        return _fit_tfidf(texts)
    from medtask.similarity import encode_texts

    return encode_texts, encode_texts(texts)


@lru_cache(maxsize=8)
def _fit_tfidf(texts: tuple[str, ...]) -> tuple[_EncodeFunction, Any]:
    """TF-IDF over the words of the texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        token_pattern=WORD_PATTERN.pattern, sublinear_tf=True, max_features=_MAX_FEATURES
    )
    # Texts without a single word have no vocabulary, and that is an error; one of nothing else
    # resembles nothing.
    vectorizer.fit(texts if any(map(WORD_PATTERN.search, texts)) else ["none"])
    return vectorizer.transform, vectorizer.transform(texts)
