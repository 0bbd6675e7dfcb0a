"""Reproducible sampling of tokens."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

# Number of tokens searched for a nucleus before the whole vocabulary is sorted.
NUCLEUS_CANDIDATES = 512


def create_row_rng(seed: int, record_id: str) -> np.random.Generator:
    """A row's random generator, which depends on the seed and the record id only."""
    return np.random.Generator(np.random.PCG64(_hash_row(seed, record_id, 16)))


def derive_row_seed(seed: int, record_id: str) -> int:
    """A row's 31-bit seed, which depends on the seed and the record id only."""
    return _hash_row(seed, record_id, 4) >> 1


def _hash_row(seed: int, record_id: str, size: int) -> int:
    content = f"{seed}\n{record_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=size).digest(), "big")


def sample_token(
    logits: NDArray[np.floating], rng: np.random.Generator, temperature: float, top_p: float
) -> int:
    """Sample a token of the nucleus from the softmax of logits / temperature [vocabulary].

    The nucleus is the smallest set of most probable tokens whose probabilities sum to ``top_p``
    (Holtzman et al. 2020, arXiv:1904.09751).
    """
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    tokens = None
    if top_p < 1:
        for count in (min(NUCLEUS_CANDIDATES, len(weights)), len(weights)):
            unsorted = np.argpartition(-weights, count - 1)[:count]
            tokens = unsorted[np.argsort(-weights[unsorted], kind="stable")]
            if weights[tokens].sum() >= top_p:
                break
        likeliest = weights[tokens]
        # NaN is kept, so that the row fails later.
        weights = likeliest[~(likeliest.cumsum() - likeliest >= top_p)]
    sums = weights.cumsum()
    place = min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(sums) - 1)
    return place if tokens is None else int(tokens[place])
