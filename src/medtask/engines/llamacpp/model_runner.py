"""Computes logits of token sequences with llama.cpp, which share common tokens.

The shared prefix is read once, then all rows in one batch, as a tree of sequences. A token may
belong to several sequences at once, so common tokens of paths are read once. Each trie node that
must be read continues in a separate sequence, which starts as a copy at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.engines.llamacpp.context import (
    MAX_SEQUENCES,
    BatchToken,
    ContextFullError,
    LlamaContext,
)
from medtask.engines.tokens.token_tree import build_token_tree, compute_depths
from medtask.engines.tokens.trie_scoring import Logits, LogprobQuery

PREFIX_SEQUENCE = 0  # the sequence that holds the shared prefix


class LlamaCppModelRunner:
    """Caches the last shared prefix, and the sequences of the branches that are being read.

    ``tokens_read`` counts the tokens read by ``compute_logits`` since it was last reset.
    """

    def __init__(self, context: LlamaContext) -> None:
        self.context = context
        self.prefix_tokens: tuple[int, ...] = ()
        self.tokens_read = 0
        self._sequence_ids: dict[tuple[int, ...], int] = {}

    def cache_prefix(self, tokens: tuple[int, ...], cells: int) -> int:
        """Read a shared prefix unless it is cached, with room for ``cells`` tokens after it;
        returns the number of tokens read.
        """
        self.drop_sequences()
        if not self.context.reserve(len(tokens) + cells) and tokens == self.prefix_tokens:
            return 0
        self.context.clear()
        self.prefix_tokens = ()
        if tokens:
            self.context.decode(
                [BatchToken(token, place, (PREFIX_SEQUENCE,)) for place, token in enumerate(tokens)]
            )
        self.prefix_tokens = tokens
        return len(tokens)

    def drop_sequences(self) -> None:
        """Drop all sequences but the prefix."""
        for sequence in self._sequence_ids.values():
            self.context.drop_sequence(sequence)
        self._sequence_ids.clear()

    def compute_logits(self, queries: Sequence[LogprobQuery]) -> list[Logits]:
        """Implements trie_scoring.LogitsFunction. All queries begin with the prefix."""
        parents = {query.tokens[: query.parent_length] for query in queries if query.parent_length}
        self._drop_except(parents)
        free = MAX_SEQUENCES - 1 - len(self._sequence_ids)
        logits: list[Logits] = []
        for start in range(0, len(queries), max(1, free)):
            part = queries[start : start + max(1, free)]
            if start:
                self._drop_except(parents)  # frees the sequences of the previous part
            try:
                logits += self._compute_logits_batch(part)
            except ContextFullError:
                self.drop_sequences()
                logits += self.compute_logits_separately(part)
        return logits

    def _drop_except(self, kept_paths: set[tuple[int, ...]]) -> None:
        for path in [path for path in self._sequence_ids if path not in kept_paths]:
            self.context.drop_sequence(self._sequence_ids.pop(path))

    def _compute_logits_batch(self, queries: Sequence[LogprobQuery]) -> list[Logits]:
        """Read one batch: after each kept sequence, the tree of the queries that continue it."""
        groups: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        free = iter(sorted(set(range(1, MAX_SEQUENCES)) - set(self._sequence_ids.values())))
        for query in queries:
            parent = query.tokens[: query.parent_length]
            paths = groups.setdefault(
                parent if parent in self._sequence_ids else self.prefix_tokens, {}
            )
            if query.tokens not in paths:
                paths[query.tokens] = next(free)
        tokens: list[BatchToken] = []
        # By path: the indices of its tokens in the batch.
        places: dict[tuple[int, ...], list[int]] = {}
        for parent, paths in groups.items():
            for sequence in paths.values():
                self.context.copy_sequence(
                    self._sequence_ids.get(parent, PREFIX_SEQUENCE), sequence
                )
            places |= _append_tree(paths, len(parent), tokens)
        for paths in groups.values():
            self._sequence_ids |= paths
        logit_places = {
            place for query in queries for place in places[query.tokens][-query.logits_to_keep :]
        }
        logits = self.context.decode(
            [replace(one, needs_logits=place in logit_places) for place, one in enumerate(tokens)]
        )
        self.tokens_read += len(tokens)
        rows = {place: row for row, place in enumerate(sorted(logit_places))}
        return [
            logits[[rows[place] for place in places[query.tokens][-query.logits_to_keep :]]]
            for query in queries
        ]

    def compute_logits_separately(self, queries: Sequence[LogprobQuery]) -> list[Logits]:
        """Compute the logits of each query separately, from the prefix on: as the reference, and if
        the queries do not fit together.
        """
        logits = []
        for query in queries:
            logits += self._compute_logits_batch([replace(query, parent_length=0)])
            self.drop_sequences()
        return logits


def _append_tree(
    paths: Mapping[tuple[int, ...], int], prefix_length: int, tokens: list[BatchToken]
) -> dict[tuple[int, ...], list[int]]:
    """Append the tree of paths, each with its sequence, after their first ``prefix_length`` tokens;
    returns the batch indices of each path's tokens.
    """
    tree = build_token_tree(list(paths), prefix_length, sum(map(len, paths)))
    start = len(tokens)
    owners: list[list[int]] = [[] for _ in tree.tokens]
    places = {}
    for end, (path, sequence) in zip(tree.path_ends, paths.items(), strict=True):
        chain = tree.get_path(end)
        for place in chain:
            owners[place].append(sequence)
        places[path] = [start + place for place in chain]
    tokens += [
        BatchToken(token, prefix_length + depth, tuple(sequence_ids))
        for token, depth, sequence_ids in zip(
            tree.tokens, compute_depths(tree.parents), owners, strict=True
        )
    ]
    return places
