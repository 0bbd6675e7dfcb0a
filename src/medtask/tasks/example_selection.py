"""Selection of examples: those similar to a row, equal for rows that are similar.

If every row were shown its own nearest examples, no two prompts would share a prefix, and a model
would process all examples again for every row. Therefore the pool is divided into at most 64
groups, once per task, and a row is shown the examples nearest to the centre of its group (grouping
by k-means: Lloyd, 1982; selection of examples by similarity: Liu et al., 2022, "What makes good
in-context examples for GPT-3?"). The examples are slightly less similar, but a prefix is processed
once per group. The group of a row depends on the pool and on its own text, never on other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from medtask.tasks.label_definitions import normalize_name
from medtask.tasks.task import ExamplePool
from medtask.unicode_text import split_words

MAX_CLUSTERS = 64
_MAX_ITERATIONS = 25
_MAX_FEATURES = 30_000

# Vectors of unit length, one per row: dense or sparse.
_EncodeFunction = Callable[[Sequence[str]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class _ExampleIndex:
    """The groups of a pool.

    ``ranking`` holds for each group the pool's distinct texts, nearest to its centre first.
    ``normalized_texts`` are these texts, case-folded.
    """

    encode: _EncodeFunction
    centres: Any
    ranking: Any
    normalized_texts: tuple[str, ...]


def select_examples(pool: ExamplePool, text: str) -> tuple[int, ...]:
    """Indices in the pool of the examples for a row with this text, the nearest last.

    An example with the same text as the row is replaced by the next nearest one.
    """
    index = _build_index(pool)
    # Text that shares no word with the pool is equally near to all centres; it gets the first
    # group.
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
    """The maximum TF-IDF cosine between the text and the references, in [0, 1]."""
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
    # A stable sort keeps the pool's order for equally near examples; rounding removes differences
    # in the last digits of sums.
    ranking = np.argsort(-similarity.round(6), axis=1, kind="stable")
    # A row is shown at most k examples, and at most one of the pool's distinct texts is its own.
    return _ExampleIndex(
        encode, centres, np.asarray(distinct)[ranking[:, : pool.k + 1]], normalized_texts
    )


def _fit_centres(vectors: Any, cluster_count: int) -> Any:
    """The groups' mean vectors of unit length [groups, dimensions]."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    # One thread: the split of a sum among threads changes its last digits, which can decide between
    # two near groups.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than groups
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
        analyzer=split_words, sublinear_tf=True, max_features=_MAX_FEATURES
    )
    # TF-IDF raises an error if no text has a word; the placeholder gives it a vocabulary.
    vectorizer.fit(texts if any(split_words(text, 1) for text in texts) else ["none"])
    return vectorizer.transform, vectorizer.transform(texts)
