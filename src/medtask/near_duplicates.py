"""Near duplicates: nearly equal texts, found among 100,000 short texts in seconds.

The similarity of two texts is the Jaccard index of their shingles (five characters each, ignoring
case, punctuation, width and repeated spaces), in [0, 1]. Candidate pairs come from MinHash (Broder,
1997) with banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3), which
finds a pair of similarity 0.8 with probability 0.9996. Every candidate pair is then compared by its
shingles, so that there are no false positives. Where more than 17 texts share a band, which takes
hundreds of texts of one pattern, each is compared with its 16 neighbours on either side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from medtask.unicode_text import normalize_text

NEAR_DUPLICATE_SIMILARITY = 0.8  # about one word in ten differs
SHINGLE_SIZE = 5  # characters
# Number of shingles kept per text. The similarity of longer texts is estimated, with a standard
# error of 0.013.
MAX_SHINGLES = 1024

_BANDS, _ROWS_PER_BAND = 20, 5
_BITS = 31  # maximum value of a hash: the maximum index of a sparse matrix
_NEIGHBOURS = 16
_CHUNK = 100_000  # characters hashed per batch, to stay in the processor's cache
_PAIRS = 20_000  # pairs compared per batch

IndexArray = NDArray[np.int64]
_HashArray = NDArray[np.uint64]

_GAP = regex.compile(r"[^\p{L}\p{N}\p{M}]+")


@dataclass(frozen=True, slots=True)
class NearDuplicatePairs:
    """Pairs of text indices (``first`` < ``second``) and their similarity, all [pairs]."""

    first: IndexArray
    second: IndexArray
    similarity: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MinHashSketch:
    """Texts prepared for comparison.

    Attributes:
        shingles: A sparse matrix [texts, hashes] with a 1 for each shingle, of which a text has
            at most its MAX_SHINGLES smallest hashes.
        bands: [bands, texts]; texts with equal numbers in a band are candidates.
    """

    shingles: Any
    bands: _HashArray

    def __len__(self) -> int:
        return int(self.bands.shape[1])


def normalize_words(text: str) -> str:
    """The words of a text in lower case, with single spaces between them and at both ends."""
    return f" {_GAP.sub(' ', normalize_text(unicodedata.normalize('NFKC', text))).strip()} "


def list_shingles(text: str) -> frozenset[str]:
    """The shingles of one text; empty if it has no words."""
    words = normalize_words(text)
    if words.isspace():
        return frozenset()
    words = words.ljust(SHINGLE_SIZE)
    return frozenset(
        words[start : start + SHINGLE_SIZE] for start in range(len(words) - SHINGLE_SIZE + 1)
    )


def compute_similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """The similarity of two texts, given by `list_shingles`; 0 if one has no words."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared) if shared else 0.0


def sketch_texts(texts: Sequence[str]) -> MinHashSketch:
    """Hash the texts. Takes at most 5 KB of memory per text."""
    from scipy.sparse import csr_array

    counts = [np.zeros(1, np.int64)]
    shingles = [np.zeros(0, np.int32)]
    bands = [np.zeros((_BANDS, 0), np.uint64)]
    for chunk in _chunk_texts(texts):
        hashes, starts = _hash_shingles(chunk)
        bands.append(_compute_bands(hashes, starts))
        kept, sizes = _keep_smallest_hashes(hashes, starts)
        shingles.append(kept)
        counts.append(sizes)
    columns, starts = np.concatenate(shingles), np.cumsum(np.concatenate(counts))
    table = csr_array(
        (np.ones(len(columns), np.int8), columns, starts), shape=(len(starts) - 1, 2**_BITS)
    )
    return MinHashSketch(table, np.concatenate(bands, axis=1))


def cluster_near_duplicates(
    sketch: MinHashSketch, threshold: float = NEAR_DUPLICATE_SIMILARITY
) -> IndexArray:
    """The cluster of each text, named by the index of its first member.

    Texts that are connected by a chain of near duplicates are in one cluster.
    """
    cluster = np.arange(len(sketch))
    for first, second in _list_candidate_pairs(sketch):
        # Texts of one cluster are not compared again, which keeps thousands of texts of one
        # pattern cheap.
        apart = cluster[first] != cluster[second]
        near = _filter_similar_pairs(sketch, first[apart], second[apart], threshold)
        cluster = merge_clusters(cluster, near.first, near.second)
    return cluster


def merge_clusters(clusters: IndexArray, first: IndexArray, second: IndexArray) -> IndexArray:
    """The clusters after merging those of ``first[i]`` and ``second[i]``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(first):
        return clusters
    count = len(clusters)
    ends = np.concatenate([first, np.arange(count)]), np.concatenate([second, clusters])
    _, names = connected_components(
        coo_array((np.ones(len(ends[0]), bool), ends), shape=(count, count)), directed=False
    )
    _, first_members, member = np.unique(names, return_index=True, return_inverse=True)
    return np.asarray(first_members[member], dtype=np.int64)


def find_cross_split_duplicates(
    sketch: MinHashSketch, side: NDArray[np.bool_], threshold: float = NEAR_DUPLICATE_SIMILARITY
) -> NearDuplicatePairs:
    """Near duplicates across two parts, given by a mask [texts], the most similar first."""
    found: list[IndexArray] = []
    for first, second in _list_candidate_pairs(sketch):
        across = side[first] != side[second]
        found.append(first[across] * len(sketch) + second[across])
    keys = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    near_duplicates = _filter_similar_pairs(
        sketch, *np.divmod(keys, max(1, len(sketch))), threshold
    )
    order = np.lexsort((near_duplicates.second, near_duplicates.first, -near_duplicates.similarity))
    return NearDuplicatePairs(
        near_duplicates.first[order],
        near_duplicates.second[order],
        near_duplicates.similarity[order],
    )


def _chunk_texts(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(normalize_words(text).ljust(SHINGLE_SIZE))
        size += len(chunk[-1])
        if size > _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _hash_shingles(texts: Sequence[str]) -> tuple[NDArray[np.int32], IndexArray]:
    """The sorted distinct shingle hashes of each text, concatenated, and each text's start."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(
        np.uint64
    )
    lengths = np.array([len(text) for text in texts])
    count = len(points) - SHINGLE_SIZE + 1
    mixed = np.zeros(count, np.uint64)
    for index in range(SHINGLE_SIZE):
        mixed = (mixed + points[index : index + count]) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    # Without the shingles that cross the border of two texts.
    ends = np.cumsum(lengths)
    whole = np.ones(count, bool)
    for back in range(1, SHINGLE_SIZE):
        whole[ends[:-1] - back] = False
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), lengths)[:count]
    keys = np.unique((owner[whole] << np.uint64(_BITS)) | (mixed[whole] >> np.uint64(64 - _BITS)))
    starts = np.searchsorted(keys, np.arange(len(texts), dtype=np.uint64) << np.uint64(_BITS))
    return (keys & np.uint64(2**_BITS - 1)).astype(np.int32), starts


def _compute_bands(shingles: NDArray[np.int32], starts: IndexArray) -> _HashArray:
    """One number per band and text, from the smallest shingle under each of its hash functions."""
    factors = np.random.default_rng(5).integers(
        0, 2**63, (_BANDS, _ROWS_PER_BAND), dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    wide = shingles.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    wide ^= wide >> np.uint64(32)
    bands = np.zeros((_BANDS, len(starts)), np.uint64)
    for band in range(_BANDS):
        for factor in factors[band]:
            smallest = np.minimum.reduceat((wide * factor) >> np.uint64(32), starts)
            bands[band] = (bands[band] ^ smallest) * np.uint64(0x9FB21C651E98DF25)
            bands[band] ^= bands[band] >> np.uint64(31)
    return bands


def _keep_smallest_hashes(
    shingles: NDArray[np.int32], starts: IndexArray
) -> tuple[NDArray[np.int32], IndexArray]:
    """The MAX_SHINGLES smallest hashes of each text and their number: a consistent sample."""
    sizes = np.diff(np.append(starts, len(shingles)))
    rank = np.arange(len(shingles)) - np.repeat(starts, sizes)
    return shingles[rank < MAX_SHINGLES], np.minimum(sizes, MAX_SHINGLES)


def _list_candidate_pairs(sketch: MinHashSketch) -> Iterator[tuple[IndexArray, IndexArray]]:
    """The pairs of texts that share a band, band by band, the earlier text first."""
    for band, after in zip(sketch.bands, np.roll(sketch.bands, -1, axis=0), strict=True):
        # Sorting by the band makes texts that share it neighbours.
        order = np.lexsort((after, band))
        keys = band[order]
        for step in range(1, _NEIGHBOURS + 1):
            meet = (
                np.flatnonzero(keys[step:] == keys[:-step])
                if step < len(keys)
                else np.zeros(0, np.int64)
            )
            if not len(meet):
                break
            one, other = order[meet], order[meet + step]
            yield np.minimum(one, other), np.maximum(one, other)


def _filter_similar_pairs(
    sketch: MinHashSketch, first: IndexArray, second: IndexArray, threshold: float
) -> NearDuplicatePairs:
    """The pairs that are near duplicates."""
    similarities = [
        _compute_jaccard(sketch.shingles, first[at : at + _PAIRS], second[at : at + _PAIRS])
        for at in range(0, len(first), _PAIRS)
    ]
    similarity = np.concatenate(similarities) if similarities else np.zeros(0)
    near = similarity >= threshold
    return NearDuplicatePairs(first[near], second[near], similarity[near])


def _compute_jaccard(shingles: Any, first: IndexArray, second: IndexArray) -> NDArray[np.float64]:
    """The Jaccard index of each pair, over the hashes up to the largest that both have."""
    both = shingles[first].multiply(shingles[second]).sum(axis=1)
    either = (
        _count_comparable_hashes(shingles, first, second)
        + _count_comparable_hashes(shingles, second, first)
        - both
    )
    return np.asarray(both / either)


def _count_comparable_hashes(shingles: Any, first: IndexArray, second: IndexArray) -> IndexArray:
    """The number of hashes of each ``first`` that could be in ``second``: all, unless it was
    truncated.
    """
    sizes = np.diff(shingles.indptr)
    counts = np.array(sizes[first], dtype=np.int64)
    for index in np.flatnonzero(sizes[second] == MAX_SHINGLES):
        start, end = shingles.indptr[first[index] : first[index] + 2]
        last = shingles.indices[shingles.indptr[second[index] + 1] - 1]
        counts[index] = np.searchsorted(shingles.indices[start:end], last, side="right")
    return counts
