"""Computes logits of token sequences with mlx-lm, many rows at once.

The shared prefix is read once into a prompt cache. Each row continues in its own copy, padded on
the right and then shifted so that all rows end at the same position, as mlx-lm itself batches
caches of any kind (BatchGenerator in mlx_lm/generate.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from medtask.engines.tokens.trie_scoring import Logits, LogprobQuery

BUDGET_TOKENS = 2048  # tokens of one pass, padding included
# Tokens whose keys and values are kept at once, including copies of the prefix
MAX_KV_TOKENS = 32_768
MAX_BATCH_ROWS = 64

TokenIds = tuple[int, ...]
LayerCaches = list[Any]  # one mlx-lm cache per layer, of one row or of several


class MlxModelRunner:
    """Caches the last shared prefix, and the rows read after it. ``batched``: whether several rows
    are read at once. ``tokens_read`` counts the tokens read.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.batched = True
        self.tokens_read = 0
        self.prefix_tokens: TokenIds = ()
        self._prefix_caches: LayerCaches = []
        # By all tokens of a row: the caches that contain it, and its index in them.
        self._cached_rows: dict[TokenIds, tuple[LayerCaches, int]] = {}

    def cache_prefix(self, tokens: TokenIds) -> int:
        """Read a shared prefix unless it is cached; returns the number of tokens read."""
        self._cached_rows.clear()
        if self._prefix_caches and tokens == self.prefix_tokens:
            return 0
        self._prefix_caches = []
        caches = make_prompt_cache(self.model)
        self._forward(caches, [tokens])
        self.prefix_tokens, self._prefix_caches = tokens, caches
        return len(tokens)

    def clear_prefix(self) -> None:
        """Forget what was read, after the model's weights have changed."""
        self.prefix_tokens, self._prefix_caches = (), []
        self._cached_rows.clear()

    def compute_logits(self, queries: Sequence[LogprobQuery]) -> list[Logits]:
        """Implements trie_scoring.LogitsFunction."""
        if not self.batched:
            return [self.compute_logits_uncached(query) for query in queries]
        keeps: dict[TokenIds, int] = {}  # candidates of a single token have the same sequence
        for query in queries:
            keeps[query.tokens] = max(query.logits_to_keep, keeps.get(query.tokens, 0))
        found: dict[TokenIds, Logits] = {}
        ordered = sorted(keeps, key=len, reverse=True)
        for part in split_rows([len(row) for row in ordered], len(self.prefix_tokens)):
            rows = ordered[part]
            caches, logits = self.prefill_rows(rows, [keeps[row] for row in rows])
            self._cached_rows |= {row: (caches, place) for place, row in enumerate(rows)}
            found |= dict(zip(rows, logits, strict=True))
        return [found[query.tokens][-query.logits_to_keep :] for query in queries]

    def compute_logits_uncached(self, query: LogprobQuery) -> Logits:
        """The reference: one row, from its first token and without a cache."""
        self.tokens_read += len(query.tokens)
        return _to_numpy(self.model(mx.array([query.tokens]))[0, -query.logits_to_keep :])

    def prefill_rows(
        self, rows: Sequence[TokenIds], keeps: Sequence[int]
    ) -> tuple[LayerCaches, list[Logits]]:
        """Read rows to their ends; returns their caches, and the logits [keep, vocabulary] of the
        last tokens of each.
        """
        if self.batched:
            starts = [
                self._find_cached_start(row, keep) for row, keep in zip(rows, keeps, strict=True)
            ]
            caches = [
                layer[0].merge(list(layer))
                for layer in zip(*(found for _, found in starts), strict=True)
            ]
            own = [row[read:] for row, (read, _) in zip(rows, starts, strict=True)]
        else:
            caches, own = make_prompt_cache(self.model), list(rows)
        # The logits of this pass are not used, so mlx does not compute them.
        self._forward(caches, [tokens[:-keep] for tokens, keep in zip(own, keeps, strict=True)])
        logits = self._forward(
            caches, [tokens[-keep:] for tokens, keep in zip(own, keeps, strict=True)]
        )
        return caches, [_to_numpy(logits[place, :keep]) for place, keep in enumerate(keeps)]

    def decode_step(self, caches: LayerCaches, tokens: Sequence[int]) -> Logits:
        """Logits [rows, vocabulary] after one more token of each row."""
        self.tokens_read += len(tokens)
        return _to_numpy(self.model(mx.array([[token] for token in tokens]), cache=caches)[:, -1])

    def _find_cached_start(self, row: TokenIds, keep: int) -> tuple[int, LayerCaches]:
        """The number of tokens of a row that are cached, excluding at least its last ``keep``
        tokens, and their caches.
        """
        for length in sorted({len(tokens) for tokens in self._cached_rows}, reverse=True):
            if length <= len(row) - keep and (found := self._cached_rows.get(row[:length])):
                return length, [cache.extract(found[1]) for cache in found[0]]
        return len(self.prefix_tokens), self._prefix_caches

    def _forward(self, caches: LayerCaches, rows: Sequence[TokenIds]) -> Any:
        """Read rows of any lengths, each after the tokens in its cache; returns logits [rows,
        longest, vocabulary], including those of padding.
        """
        lengths = [len(row) for row in rows]
        self.tokens_read += sum(lengths)
        padding = [max(lengths) - length for length in lengths]
        if any(padding):
            for cache in caches:
                cache.prepare(lengths=lengths, right_padding=padding)
        padded = mx.array([[*row, *[0] * more] for row, more in zip(rows, padding, strict=True)])
        logits = []
        for start in range(0, max(lengths), BUDGET_TOKENS):
            logits.append(self.model(padded[:, start : start + BUDGET_TOKENS], cache=caches))
            mx.eval([cache.state for cache in caches])
        if any(padding):
            for cache in caches:
                cache.finalize()
        return mx.concatenate(logits, axis=1) if logits else None


def fits_into_pass(count: int, longest: int, shared_tokens: int, extra_tokens: int = 0) -> bool:
    """Whether one pass can read ``count`` rows of at most ``longest`` tokens.

    ``shared_tokens`` of each are cached; ``extra_tokens`` more will be added to each.
    """
    return (
        count <= MAX_BATCH_ROWS
        and count * max(1, longest - shared_tokens) <= BUDGET_TOKENS
        and count * (longest + extra_tokens) <= MAX_KV_TOKENS
    )


def split_rows(lengths: Sequence[int], shared_tokens: int) -> Iterator[slice]:
    """Split rows, the longest first, into parts that fit into one pass, or of a single row."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and fits_into_pass(
            stop + 1 - start, lengths[start], shared_tokens
        ):
            stop += 1
        yield slice(start, stop)
        start = stop


def _to_numpy(logits: Any) -> Logits:
    return np.array(logits.astype(mx.float32))
