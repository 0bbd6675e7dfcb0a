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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from medtask.near_duplicates import compute_similarity, list_shingles
from medtask.tasks.task import ExamplePool
from medtask.tasks.text_cleaning import make_text_key, normalize_group
from medtask.unicode_text import split_words

MAX_CLUSTERS = 64
_MAX_ITERATIONS = 25
_MAX_FEATURES = 30_000
# Texts that differ in punctuation or a typing error are copies of one record. The bound is above
# that of near duplicates: a similar text of another record is the best example there is.
_SAME_RECORD_SIMILARITY = 0.9

# Vectors of unit length, one per row: dense or sparse.
_EncodeFunction = Callable[[Sequence[str]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class _ExampleIndex:
    """The groups of a pool.

    ``ranking`` holds for each group the pool's distinct texts, nearest to its centre first.
    ``row_groups`` are the normalised groups (such as patients) of the examples with each of these
    texts.
    """

    encode: _EncodeFunction
    centres: Any
    ranking: Any
    row_groups: Mapping[int, frozenset[str]]


def select_examples(
    pool: ExamplePool, text: str, group: str | None = None, whole_text: str | None = None
) -> tuple[int, ...]:
    """Indices in the pool of the examples for a row with this text, the nearest last.

    ``whole_text`` is the row's text if ``text`` is a part of it.

    A row is never shown an example of its own group, nor one whose text is a copy of its own: it
    would be shown its own answer. Such an example is replaced by the next nearest one.
    """
    index = _build_index(pool)
    # Text that shares no word with the pool is equally near to all centres; it gets the first
    # group.
    cluster = int((index.encode([text]) @ index.centres.T).argmax())
    own_group = None if group is None else normalize_group(group)
    own_name, own_shingles = _normalize_example(text if whole_text is None else whole_text)

    def is_related(place: int) -> bool:
        name, shingles = _normalize_example(pool.texts[place])
        return (
            own_group in index.row_groups[place]
            or name == own_name
            or compute_similarity(shingles, own_shingles) >= _SAME_RECORD_SIMILARITY
        )

    order = index.ranking[cluster]
    spare = (place for place in map(int, order[pool.k :]) if not is_related(place))
    # The replacement takes the place of the example, so that prompts share what comes before it.
    selected = [
        next(spare, None) if is_related(place) else place for place in map(int, order[: pool.k])
    ]
    return tuple(place for place in reversed(selected) if place is not None)


@lru_cache(maxsize=4096)
def _normalize_example(text: str) -> tuple[str, frozenset[str]]:
    return make_text_key(text), list_shingles(text)


def find_max_similarity(references: tuple[str, ...], text: str) -> float:
    """The maximum TF-IDF cosine between the text and the references, in [0, 1]."""
    if not references:
        return 0.0
    encode, vectors = _fit_tfidf(references)
    return float((vectors @ encode([text]).T).max())


@lru_cache(maxsize=8)
def _build_index(pool: ExamplePool) -> _ExampleIndex:
    import numpy as np

    places: dict[str, list[int]] = {}
    for place, text in enumerate(pool.texts):
        places.setdefault(make_text_key(text), []).append(place)
    distinct = [same[0] for same in places.values()]
    row_groups = {
        same[0]: frozenset(
            normalize_group(group)
            for place in same
            if (group := pool.examples[place].group) is not None
        )
        for same in places.values()
    }
    encode, vectors = _fit_encoder(tuple(pool.texts[place] for place in distinct), pool.by)
    centres = _fit_centres(vectors, min(MAX_CLUSTERS, len(distinct)))
    similarity = np.asarray(centres @ vectors.T)
    # A stable sort keeps the pool's order for equally near examples; rounding removes differences
    # in the last digits of sums.
    ranking = np.argsort(-similarity.round(6), axis=1, kind="stable")
    return _ExampleIndex(encode, centres, np.asarray(distinct, dtype=np.int32)[ranking], row_groups)


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
