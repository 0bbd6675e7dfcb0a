"""Scores packs of prompts with packed attention.

The shared prefix is read once, then the prompts together, then the tokens that the tries need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from medtask.engines.hf.attention import run_forward_pass
from medtask.engines.hf.lm_head import LmHead
from medtask.engines.hf.long_rope import LongRope
from medtask.engines.hf.packed_attention import KvCache, Segment, build_pass
from medtask.engines.tokens.chat import TokenizedBranch, count_common_prefix
from medtask.engines.tokens.token_tree import TokenTree, build_token_tree
from medtask.engines.tokens.trie import count_node_tokens, list_node_paths
from medtask.engines.tokens.trie_scoring import (
    LogprobQuery,
    QueryLogprobs,
    TokenIds,
    score_branches_from_logprobs,
)
from medtask.records import BranchScores

# A pass over few tokens takes as long as one over about this many: the weights must be read.
MIN_PASS_TOKENS = 32
# Nodes of the tries are read with the rows if they add at most this share of tokens.
MAX_NODE_SHARE = 1 / 8


class HfModelRunner:
    """A decoder with packed attention and its head; caches the keys and values of the last shared
    prefix.

    Attributes:
        long_rope: The decoder's rotary embeddings.
        prefix_cache: Keys and values of the prefix that passes attend to.
    """

    def __init__(
        self, decoder: Any, head: LmHead, device: torch.device, long_rope: LongRope
    ) -> None:
        self.decoder = decoder
        self.head = head
        self.device = device
        self.long_rope = long_rope
        self._reads_long_texts = False
        self.prefix_cache = KvCache()
        self._cached_tokens: TokenIds = ()
        self._cached = KvCache()
        self._last_shared_tokens: TokenIds = ()

    @contextmanager
    def use_frequencies(self, tokens: int) -> Iterator[None]:
        """Read with the rotary frequencies for texts of this length."""
        is_long = tokens > self.long_rope.limit
        if is_long != self._reads_long_texts:
            self.clear_prefix()
            self._reads_long_texts = is_long
        with self.long_rope.use_long_frequencies() if is_long else nullcontext():
            yield

    def choose_prefix_length(self, tokens: TokenIds, rows: int) -> int:
        """The number of ``tokens``, which all rows of a pack share, to read as its prefix.

        Few rows read tokens again rather than replace a cached prefix that is a little shorter: a
        single row shares all of its tokens with itself. What two such packs in a row share is
        worth caching.
        """
        # In 16 bits, the last digits of a row's probabilities would depend on the packs before it.
        if self.head.weight.dtype != torch.float32:
            return len(tokens)
        cached = count_common_prefix([self._cached_tokens, tokens])
        repeated = count_common_prefix([self._last_shared_tokens, tokens])
        self._last_shared_tokens = tokens
        if rows * (len(tokens) - cached) > len(tokens):
            return len(tokens)
        return repeated if repeated > cached + MIN_PASS_TOKENS else cached

    def cache_prefix(self, tokens: TokenIds) -> int:
        """Read a shared prefix unless it is cached; returns the number of tokens read."""
        if self._cached_tokens == tokens:
            self.prefix_cache = self._cached
            return 0
        if not tokens:
            self.prefix_cache = KvCache()
            return 0
        is_start = self._cached_tokens[: len(tokens)] == tokens
        if is_start and self.head.weight.dtype == torch.float32:
            self.prefix_cache = self._cached.truncate(len(tokens))
            return 0
        self._cached_tokens, self._cached, self.prefix_cache = (), KvCache(), KvCache()
        cache = KvCache()
        run_forward_pass(self.decoder, build_pass([Segment(tokens)], KvCache(), cache, self.device))
        self._cached_tokens, self._cached, self.prefix_cache = tokens, cache, cache
        return len(tokens)

    def clear_prefix(self) -> None:
        """Forget the cached prefix: its memory is needed, or the weights have changed."""
        self._cached_tokens, self._cached, self.prefix_cache = (), KvCache(), KvCache()
        self._last_shared_tokens = ()

    def score_requests(
        self, requests: Sequence[Sequence[TokenizedBranch]], budget_tokens: int
    ) -> list[tuple[tuple[BranchScores, ...], int]]:
        """Score requests whose branches begin with the cached prefix.

        Tokens that the branches of a request share are read once. One pass reads all requests; the
        tokens of a request beyond ``budget_tokens`` are read in further passes.

        Returns:
            For each request the scores of its branches, and the number of tokens read for it.
        """
        reader = _PackReader(self, requests, budget_tokens)
        scores = iter(
            score_branches_from_logprobs(
                [branch for request in requests for branch in request], reader.compute_logprobs
            )
        )
        return [
            (tuple(next(scores) for _ in request), tokens)
            for request, tokens in zip(requests, reader.tokens_read, strict=True)
        ]


class _PackReader:
    """Answers the queries of one pack. The first queries are answered from the trees of the
    requests, later ones continue them. ``tokens_read`` counts the tokens of each request.

    All nodes of the tries are read with the trees if these have few tokens: reading a node that is
    not needed costs less than a further pass.
    """

    def __init__(
        self,
        runner: HfModelRunner,
        requests: Sequence[Sequence[TokenizedBranch]],
        budget_tokens: int,
    ) -> None:
        self.tokens_read = [0] * len(requests)
        self._runner = runner
        self._requests = requests
        self._budget_tokens = budget_tokens
        self._cache = KvCache()
        self._request_of_row = [index for index, request in enumerate(requests) for _ in request]
        self._hidden: Tensor | None = None
        # By row and tokens: the cache indices of the tokens after the prefix.
        self._chains: dict[tuple[int, TokenIds], list[int]] = {}

    def compute_logprobs(self, queries: Sequence[LogprobQuery]) -> list[QueryLogprobs]:
        """Implements trie_scoring.LogprobsFunction."""
        if self._hidden is None:
            self._hidden = self._read_trees()
            chains = [self._chains[query.row, query.tokens] for query in queries]
            targets = self._compute_targets(queries, chains, self._hidden)
            last = self._hidden[[chain[-1] for chain in chains]]
            return self._compute_choices(queries, last, targets)
        if (queries[0].row, queries[0].tokens) in self._chains:
            hidden = self._hidden[[self._chains[query.row, query.tokens][-1] for query in queries]]
        else:
            hidden = torch.cat([self._continue(part) for part in self._split(queries)])
        return self._compute_choices(queries, hidden, [{} for _ in queries])

    def _read_trees(self) -> Tensor:
        """Read the tree of each request; returns the hidden states of all their tokens."""
        paths_of_branches = self._list_paths()
        branch_paths = iter(paths_of_branches)
        trees = [
            build_token_tree(
                [path for _ in request for path in next(branch_paths)],
                self._runner.prefix_cache.tokens,
                self._budget_tokens,
            )
            for request in self._requests
        ]
        indices: list[list[int]] = [[] for _ in trees]
        hidden = []
        for chunk in range(max(len(tree.chunk_starts) for tree in trees)):
            left = [number for number, tree in enumerate(trees) if chunk < len(tree.chunk_starts)]
            forward_pass = build_pass(
                [make_segment(trees[number], chunk, indices[number]) for number in left],
                self._runner.prefix_cache,
                self._cache,
                self._runner.device,
            )
            hidden.append(run_forward_pass(self._runner.decoder, forward_pass))
            for segment, number in enumerate(left):
                indices[number] += forward_pass.token_indices(segment)
        self.tokens_read = [len(tree.tokens) for tree in trees]
        chains = (
            [index[place] for place in tree.get_path(end)]
            for tree, index in zip(trees, indices, strict=True)
            for end in tree.path_ends
        )
        for row, paths in enumerate(paths_of_branches):
            for path in paths:
                self._chains[row, path] = next(chains)
        return torch.cat(hidden)

    def _list_paths(self) -> list[Sequence[TokenIds]]:
        """The token sequences to read for each branch."""
        branches = [branch for request in self._requests for branch in request]
        paths = [branch.paths for branch in branches]
        own_tokens = sum(
            max(len(branch.prefix_tokens) - self._runner.prefix_cache.tokens for branch in request)
            for request in self._requests
        )
        limit = max(MIN_PASS_TOKENS, own_tokens * MAX_NODE_SHARE)
        tries = {id(branch.trie): branch.trie for branch in branches if branch.trie}
        counts = {key: count_node_tokens(trie) for key, trie in tries.items()}
        if sum(counts[id(branch.trie)] for branch in branches if branch.trie) > limit:
            return list(paths)
        return [
            (*own, *(branch.prefix_tokens + path for path in list_node_paths(branch.trie)))
            if branch.trie
            else own
            for branch, own in zip(branches, paths, strict=True)
        ]

    def _continue(self, queries: Sequence[LogprobQuery]) -> Tensor:
        """Read the tokens that queries add to earlier ones; returns their last hidden states."""
        parents = [
            self._chains[query.row, query.tokens[: query.parent_length]] for query in queries
        ]
        forward_pass = build_pass(
            [
                Segment(query.tokens[query.parent_length :], parent)
                for query, parent in zip(queries, parents, strict=True)
            ],
            self._runner.prefix_cache,
            self._cache,
            self._runner.device,
        )
        hidden = run_forward_pass(self._runner.decoder, forward_pass)[forward_pass.last_indices]
        for segment, (query, parent) in enumerate(zip(queries, parents, strict=True)):
            own = forward_pass.token_indices(segment)
            self._chains[query.row, query.tokens] = [*parent, *own]
            self.tokens_read[self._request_of_row[query.row]] += len(own)
        return hidden

    def _split(self, queries: Sequence[LogprobQuery]) -> Iterator[Sequence[LogprobQuery]]:
        """Split queries into parts within the token budget, or of a single query."""
        start = tokens = 0
        for index, query in enumerate(queries):
            size = len(query.tokens) - query.parent_length
            if index > start and tokens + size > self._budget_tokens:
                yield queries[start:index]
                start, tokens = index, 0
            tokens += size
        yield queries[start:]

    def _compute_targets(
        self, queries: Sequence[LogprobQuery], chains: Sequence[list[int]], hidden: Tensor
    ) -> list[dict[int, dict[int, float]]]:
        """The targets of each query. Queries that share tokens share the index of their hidden
        state, which is multiplied with the whole vocabulary once.
        """
        by_index: dict[int, dict[int, float]] = {}
        targets = []
        for query, chain in zip(queries, chains, strict=True):
            own = {}
            for position, tokens in query.targets.items():
                index = chain[position - self._runner.prefix_cache.tokens]
                own[position] = by_index.setdefault(index, {})
                own[position].update(dict.fromkeys(tokens, math.nan))
            targets.append(own)
        padded = torch.zeros(len(by_index), max(map(len, by_index.values())), dtype=torch.long)
        for row, following in enumerate(by_index.values()):
            padded[row, : len(following)] = torch.tensor(list(following))
        logprobs = self._runner.head.compute_logprobs(
            hidden[list(by_index)], padded.to(self._runner.device)
        )
        for following, found in zip(by_index.values(), logprobs.tolist(), strict=True):
            following.update(zip(following, found, strict=False))
        return targets

    def _compute_choices(
        self,
        queries: Sequence[LogprobQuery],
        hidden: Tensor,
        targets: Sequence[dict[int, dict[int, float]]],
    ) -> list[QueryLogprobs]:
        """The results of queries, from the last hidden state of each [queries, hidden size]."""
        rows_of_choices: dict[TokenIds, list[int]] = {}
        for row, query in enumerate(queries):
            rows_of_choices.setdefault(query.choices, []).append(row)
        choices: list[list[float]] = [[] for _ in queries]
        for tokens, rows in rows_of_choices.items():
            if tokens:
                logits = self._runner.head.compute_token_logits(hidden[rows], tokens)
                for row, found in zip(rows, logits.tolist(), strict=True):
                    choices[row] = found
        return [QueryLogprobs(own, found) for own, found in zip(targets, choices, strict=True)]


def make_segment(tree: TokenTree, chunk: int, indices: Sequence[int]) -> Segment:
    """A chunk of a tree as a segment; ``indices``: cache indices of the earlier chunks' tokens."""
    start, stop = tree.chunk_starts[chunk], (*tree.chunk_starts, len(tree.tokens))[chunk + 1]
    ancestors = [indices[place] for place in tree.get_path(tree.parents[start])]
    parents = [parent - start if parent >= start else -1 for parent in tree.parents[start:stop]]
    # A path without forks needs no parents: passes without forks need no fork index.
    forks = any(parent != place for place, parent in enumerate(parents, -1))
    return Segment(tree.tokens[start:stop], ancestors, parents if forks else None)
