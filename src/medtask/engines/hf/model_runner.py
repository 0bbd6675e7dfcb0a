"""Reads tokenised questions with the packed model: the shared prefix once, the rows together, then
what the tries need.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtask.engines.hf.attention import run_forward_pass
from medtask.engines.hf.lm_head import LmHead
from medtask.engines.hf.packed_attention import KvCache, Segment, build_pass
from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.token_tree import TokenTree, build_token_tree
from medtask.engines.tokens.trie import NodeVisit, TrieScores, expand_node
from medtask.records import BranchScores

TokenIndices = list[int]


@dataclass(frozen=True, slots=True)
class NodeState:
    """A visit whose branching was read: ``hidden`` [rows, hidden size] there, and per row the chain
    of tokens that led to it.
    """

    scores: TrieScores
    visit: NodeVisit
    hidden: Tensor
    token_indices: list[TokenIndices]


@dataclass(slots=True)
class BranchState:
    """A question whose paths were read. ``path_indices``: of each path, the indices of its
    tokens behind the prefix in what was read, in order. ``trie_tokens``: tokens that its trie
    took beyond them.
    """

    tokenized: TokenizedBranch
    path_indices: list[TokenIndices]
    scores: BranchScores | None = None
    trie_tokens: int = 0


class HfModelRunner:
    """A decoder with packed attention and its head. Keeps the last shared prefix's keys and
    values.
    """

    def __init__(self, decoder: Any, head: LmHead, device: torch.device) -> None:
        self.decoder = decoder
        self.head = head
        self.device = device
        self.prefix_tokens: tuple[int, ...] = ()
        self.prefix_cache = KvCache()

    def cache_prefix(self, tokens: tuple[int, ...]) -> int:
        """Have the keys and values of a shared prefix ready; returns how many tokens had to be read
        for it.
        """
        if self.prefix_tokens == tokens:
            return 0
        self.prefix_tokens, self.prefix_cache = (), KvCache()
        cache = KvCache()
        if tokens:
            run_forward_pass(
                self.decoder, build_pass([Segment(tokens)], KvCache(), cache, self.device)
            )
        self.prefix_tokens, self.prefix_cache = tokens, cache
        return len(tokens)

    def score_requests(
        self, requests: Sequence[Sequence[TokenizedBranch]], budget_tokens: int
    ) -> list[tuple[tuple[BranchScores, ...], int]]:
        """Scores of units of questions that begin with the kept prefix, and the tokens read for
        each unit.

        What the questions of a unit have in common is read once. One pass reads all units; what a
        unit has above ``budget_tokens`` tokens is left to further ones. So are the branchings of
        the tries that still matter, which are read level by level, for all units together.
        """
        pack_cache = KvCache()
        hidden, states, tokens = self._forward_trees(requests, pack_cache, budget_tokens)
        every = [state for request in states for state in request]
        self._score_sets(
            [state for state in every if state.tokenized.trie is not None],
            hidden,
            pack_cache,
            budget_tokens,
        )
        self._score_texts([state for state in every if state.tokenized.trie is None], hidden)
        return [
            (
                tuple(state.scores for state in request if state.scores),
                size + sum(state.trie_tokens for state in request),
            )
            for request, size in zip(states, tokens, strict=True)
        ]

    def _forward_trees(
        self, requests: Sequence[Sequence[TokenizedBranch]], pack_cache: KvCache, budget_tokens: int
    ) -> tuple[Tensor, list[list[BranchState]], list[int]]:
        """Hidden states of all tokens of the units' trees, where each question's tokens stand among
        them, and the trees' sizes.
        """
        trees = [
            build_token_tree(
                [path for tokenized in request for path in tokenized.paths],
                self.prefix_cache.tokens,
                budget_tokens,
            )
            for request in requests
        ]
        indices: list[TokenIndices] = [[] for _ in trees]
        hidden = []
        for piece in range(max(len(tree.chunk_starts) for tree in trees)):
            left = [row for row, tree in enumerate(trees) if piece < len(tree.chunk_starts)]
            plan = build_pass(
                [_make_segment(trees[row], piece, indices[row]) for row in left],
                self.prefix_cache,
                pack_cache,
                self.device,
            )
            hidden.append(run_forward_pass(self.decoder, plan))
            for segment, row in enumerate(left):
                indices[row] += plan.token_indices(segment)
        states = []
        for request, tree, index in zip(requests, trees, indices, strict=True):
            chains = ([index[place] for place in tree.get_path(end)] for end in tree.path_ends)
            states.append(
                [
                    BranchState(tokenized, list(itertools.islice(chains, len(tokenized.paths))))
                    for tokenized in request
                ]
            )
        return torch.cat(hidden), states, [len(tree.tokens) for tree in trees]

    def _score_sets(
        self, states: Sequence[BranchState], hidden: Tensor, pack_cache: KvCache, budget_tokens: int
    ) -> None:
        off_set = np.zeros(len(states))
        for rows in _group_rows(states, lambda reading: reading.tokenized.first_tokens):
            answer_indices = [
                states[row].path_indices[0][
                    states[row].tokenized.answer_position - self.prefix_cache.tokens
                ]
                for row in rows
            ]
            off_set[rows] = (
                self.head.compute_off_set(
                    hidden[answer_indices], states[rows[0]].tokenized.first_tokens
                )
                .cpu()
                .numpy()
            )
        scores_by_row: dict[int, TrieScores] = {}
        node_states = []
        # One trie for all prompts with the same branch, unless the tokenizer merged some row's end
        # with the labels.
        for rows in _group_rows(states, lambda reading: id(reading.tokenized.trie)):
            trie = states[rows[0]].tokenized.trie
            if trie is not None:
                chains = [states[row].path_indices[0] for row in rows]
                trie_scores = TrieScores.empty(len(states), len(trie.candidate_indices))
                visit = NodeVisit(trie, np.array(rows), np.zeros(len(rows)))
                node_states.append(
                    NodeState(trie_scores, visit, hidden[[chain[-1] for chain in chains]], chains)
                )
                scores_by_row.update(dict.fromkeys(rows, trie_scores))
        while node_states:
            node_states = self._expand_nodes(node_states, states, pack_cache, budget_tokens)
        for row, trie_scores in scores_by_row.items():
            scores = BranchScores(
                tuple(trie_scores.logprobs[row].tolist()),
                float(off_set[row]),
                float(trie_scores.slack[row]),
            )
            states[row].scores = scores

    def _score_texts(self, states: Sequence[BranchState], hidden: Tensor) -> None:
        """Log-likelihoods of tails: the probability of each of their tokens, over the whole
        vocabulary, behind all before it.
        """
        targets: dict[
            int, dict[int, float]
        ] = {}  # by the index of a token, tokens that may follow it
        for state in states:
            for index, token in (step for steps in _list_steps(state) for step in steps):
                targets.setdefault(index, {})[token] = math.nan
        if not targets:
            return
        tokens = torch.zeros(len(targets), max(map(len, targets.values())), dtype=torch.long)
        for row, following in enumerate(targets.values()):
            tokens[row, : len(following)] = torch.tensor(list(following))
        found = self.head.log_softmax_at(hidden[list(targets)], tokens.to(self.device)).cpu()
        for row, following in enumerate(targets.values()):
            following.update(zip(following, found[row].tolist(), strict=False))
        for state in states:
            logprobs = tuple(
                math.fsum(targets[index][token] for index, token in steps)
                for steps in _list_steps(state)
            )
            following = targets[state.path_indices[0][-1]]
            inside = math.fsum(math.exp(following[token]) for token in state.tokenized.first_tokens)
            state.scores = BranchScores(
                logprobs, max(1.0 - inside, 0.0)
            )  # in this order NaN stays NaN

    def _expand_nodes(
        self,
        node_states: list[NodeState],
        states: Sequence[BranchState],
        pack_cache: KvCache,
        budget_tokens: int,
    ) -> list[NodeState]:
        """Settle the branchings that were read and read the next ones below them."""
        unread: list[tuple[TrieScores, NodeVisit, list[TokenIndices]]] = []
        for node_state in node_states:
            branches = (
                self.head.log_softmax_over(node_state.hidden, node_state.visit.node.tokens)
                .cpu()
                .numpy()
            )
            chain_of = dict(
                zip(node_state.visit.rows.tolist(), node_state.token_indices, strict=True)
            )
            further = expand_node(node_state.scores, node_state.visit, branches)
            unread += [
                (node_state.scores, visit, [chain_of[row] for row in visit.rows.tolist()])
                for visit in further
            ]
        next_states = []
        for group in _split_visits(unread, budget_tokens):
            segments = [
                Segment(visit.node.edge_tokens, chain)
                for _, visit, chains in group
                for chain in chains
            ]
            plan = build_pass(segments, self.prefix_cache, pack_cache, self.device)
            hidden = run_forward_pass(self.decoder, plan)[plan.last_indices]
            at = 0
            for scores, visit, chains in group:
                longer = [
                    [*chain, *plan.token_indices(at + index)] for index, chain in enumerate(chains)
                ]
                next_states.append(NodeState(scores, visit, hidden[at : at + len(chains)], longer))
                at += len(chains)
                for row in visit.rows.tolist():
                    states[row].trie_tokens += len(visit.node.edge_tokens)
        return next_states


def _make_segment(tree: TokenTree, piece: int, indices: TokenIndices) -> Segment:
    """A tree's piece as a segment of a pass; ``indices``: of the tokens of earlier pieces, in the
    pack's keys and values.
    """
    start, stop = tree.chunk_starts[piece], (*tree.chunk_starts, len(tree.tokens))[piece + 1]
    ancestors = [indices[place] for place in tree.get_path(tree.parents[start])]
    parents = [parent - start if parent >= start else -1 for parent in tree.parents[start:stop]]
    # A chain is told as one: passes without any fork need no map of who sees whom.
    forks = any(parent != place for place, parent in enumerate(parents, -1))
    return Segment(tree.tokens[start:stop], ancestors, parents if forks else None)


def _list_steps(state: BranchState) -> Iterator[list[tuple[int, int]]]:
    """For each tail: its tokens, each behind the index of the token that it follows."""
    for candidate, chain in zip(state.tokenized.candidates, state.path_indices[1:], strict=True):
        yield list(zip(chain[len(chain) - len(candidate) :], candidate, strict=True))


def _group_rows(
    states: Sequence[BranchState], key: Callable[[BranchState], Hashable]
) -> Iterable[list[int]]:
    """Rows that have the same key, the first seen first."""
    rows: dict[Hashable, list[int]] = {}
    for row, state in enumerate(states):
        rows.setdefault(key(state), []).append(row)
    return rows.values()


def _split_visits(
    unread: list[tuple[TrieScores, NodeVisit, list[TokenIndices]]], budget_tokens: int
) -> Iterator[list[tuple[TrieScores, NodeVisit, list[TokenIndices]]]]:
    """Cut visits into groups that read at most ``budget_tokens`` tokens (a single visit may be
    more).
    """
    group: list[tuple[TrieScores, NodeVisit, list[TokenIndices]]] = []
    tokens = 0
    for item in unread:
        size = len(item[1].node.edge_tokens) * len(item[2])
        if group and tokens + size > budget_tokens:
            yield group
            group, tokens = [], 0
        group.append(item)
        tokens += size
    if group:
        yield group
