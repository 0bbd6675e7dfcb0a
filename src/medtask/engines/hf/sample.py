"""Which token comes next: the likeliest, or one drawn by chance that can be repeated."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

NUCLEUS_AT_ONCE = 512  # tokens among which a nucleus is looked for before the whole vocabulary is sorted


def seed_chance(seed: int, record_id: str) -> np.random.Generator:
    """A row's own chance: the same for the same seed and record, whatever else is asked."""
    digest = blake2b(f"{seed}\n{record_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


@torch.inference_mode()
def measure_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [rows] of one token per row, over the whole vocabulary; float32."""
    return logits.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)


@torch.inference_mode()
def draw_token(logits: Tensor, chance: np.random.Generator, temperature: float, top_p: float) -> int:
    """Draw from the softmax of one row's logits / temperature [vocabulary], tokens of the nucleus only.

    The nucleus: the fewest likeliest tokens whose probabilities reach ``top_p`` together (Holtzman et al. 2020,
    arXiv:1904.09751).
    """
    weights = torch.softmax(logits.cpu().double() / temperature, dim=-1)  # some devices have no float64
    tokens = None
    if top_p < 1:
        for count in (min(NUCLEUS_AT_ONCE, len(weights)), len(weights)):
            likeliest, tokens = weights.topk(count)
            if likeliest.sum() >= top_p:
                break
        before = likeliest.cumsum(0) - likeliest
        weights = likeliest[~(before >= top_p)]  # NaN stays, and fails the row later
    sums = weights.cumsum(0).numpy()
    place = min(int(np.searchsorted(sums, chance.random() * sums[-1], side="right")), len(sums) - 1)
    return place if tokens is None else int(tokens[place])
