"""Scores of tokenised questions from any model that can read token sequences and tell what follows
them.

The tries are read level by level, for all questions together, and only where a branching can still
change a reported probability (see trie.settle).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.trie import FloatArray, NodeVisit, TrieScores, expand_node
from medtask.records import BranchScores

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LogprobQuery:
    """A sequence of tokens to be read. ``parent_length``: how many of its first tokens were read
    before, for this question.

    ``target_tokens``: by the place of a token in the sequence, the tokens whose log-probabilities
    behind it are asked for.
    """

    tokens: tuple[int, ...]
    parent_length: int
    target_tokens: Mapping[int, tuple[int, ...]]

    @property
    def logits_to_keep(self) -> int:
        """For how many of its last tokens the logits of the token that follows are needed."""
        return len(self.tokens) - min(self.target_tokens)


# Logits [keep, vocabulary] of each reading, in their order.
LogitsFunction = Callable[[Sequence[LogprobQuery]], Sequence[Logits]]

# Of each reading, by place and token, the log-probabilities over the whole vocabulary that it asks
# for.
PositionLogprobs = Mapping[int, Mapping[int, float]]
LogprobsFunction = Callable[[Sequence[LogprobQuery]], Sequence[PositionLogprobs]]


def score_branches(
    tokenized_branches: Sequence[TokenizedBranch], compute_logits: LogitsFunction
) -> list[BranchScores]:
    """Scores of questions that are read together; ``compute_logits`` is called once, and once
    more for each further level of the tries.
    """

    def compute_logprobs(queries: Sequence[LogprobQuery]) -> list[PositionLogprobs]:
        return [
            extract_logprobs(query, logits)
            for query, logits in zip(queries, compute_logits(queries), strict=True)
        ]

    return score_branches_from_logprobs(tokenized_branches, compute_logprobs)


def extract_logprobs(query: LogprobQuery, logits: Logits) -> PositionLogprobs:
    """What a reading asks for, from its logits [keep, vocabulary]."""
    results: dict[int, dict[int, float]] = {}
    for place, tokens in query.target_tokens.items():
        row = logits[place - len(query.tokens)]
        results[place] = dict(
            zip(
                tokens,
                (row[list(tokens)].astype(np.float64) - _logsumexp(row)).tolist(),
                strict=True,
            )
        )
    return results


def score_branches_from_logprobs(
    tokenized_branches: Sequence[TokenizedBranch], compute_logprobs: LogprobsFunction
) -> list[BranchScores]:
    """As score_questions, by a model that shows no logits but tells the log-probabilities that it
    is asked for.
    """
    first_queries: list[LogprobQuery] = []
    rows_of_queries: list[int] = []
    for row, tokenized in enumerate(tokenized_branches):
        if tokenized.trie is not None:
            last = len(tokenized.prefix_tokens) - 1
            first_queries.append(
                LogprobQuery(
                    tokenized.prefix_tokens,
                    0,
                    _merge_targets(
                        (tokenized.answer_position, tokenized.first_tokens),
                        (last, tokenized.trie.tokens),
                    ),
                )
            )
        else:
            for path, candidate in zip(tokenized.paths[1:], tokenized.candidates, strict=True):
                start = len(path) - len(candidate)
                steps = ((start + place, (token,)) for place, token in enumerate(candidate))
                first_queries.append(
                    LogprobQuery(
                        path,
                        0,
                        _merge_targets((tokenized.answer_position, tokenized.first_tokens), *steps),
                    )
                )
        rows_of_queries += [row] * (len(first_queries) - len(rows_of_queries))
    results_by_row: list[list[PositionLogprobs]] = [[] for _ in tokenized_branches]
    for row, logprobs in zip(rows_of_queries, compute_logprobs(first_queries), strict=True):
        results_by_row[row].append(logprobs)
    trie_scores = _score_tries(tokenized_branches, results_by_row, compute_logprobs)
    return [
        _score_text_branch(tokenized, found)
        if tokenized.trie is None
        else BranchScores(
            tuple(trie_scores[row].logprobs[0].tolist()),
            _compute_off_set(tokenized, found),
            float(trie_scores[row].slack[0]),
        )
        for row, (tokenized, found) in enumerate(
            zip(tokenized_branches, results_by_row, strict=True)
        )
    ]


@dataclass(frozen=True, slots=True)
class _PendingNode:
    """A branching that one question's reading has come to: the visit, the tokens read up to it, and
    what may follow them.
    """

    row: int
    visit: NodeVisit
    tokens: tuple[int, ...]
    logprobs: Mapping[int, float]


def _score_tries(
    tokenized_branches: Sequence[TokenizedBranch],
    found: Sequence[Sequence[PositionLogprobs]],
    compute_logprobs: LogprobsFunction,
) -> dict[int, TrieScores]:
    trie_scores: dict[int, TrieScores] = {}
    pending_nodes: list[_PendingNode] = []
    for row, tokenized in enumerate(tokenized_branches):
        if tokenized.trie is not None:
            trie_scores[row] = TrieScores.empty(1, len(tokenized.trie.candidate_indices))
            visit = NodeVisit(tokenized.trie, np.zeros(1, dtype=np.intp), np.zeros(1))
            pending_nodes.append(
                _PendingNode(
                    row,
                    visit,
                    tokenized.prefix_tokens,
                    found[row][0][len(tokenized.prefix_tokens) - 1],
                )
            )
    while pending_nodes:
        unread = [
            (arrival, visit)
            for arrival in pending_nodes
            for visit in expand_node(
                trie_scores[arrival.row],
                arrival.visit,
                _renormalise_logprobs(arrival.logprobs, arrival.visit.node.tokens),
            )
        ]
        if not unread:
            break
        paths = [arrival.tokens + visit.node.edge_tokens for arrival, visit in unread]
        queries = [
            LogprobQuery(path, len(arrival.tokens), {len(path) - 1: visit.node.tokens})
            for path, (arrival, visit) in zip(paths, unread, strict=True)
        ]
        pending_nodes = [
            _PendingNode(arrival.row, visit, path, logprobs[len(path) - 1])
            for (arrival, visit), path, logprobs in zip(
                unread, paths, compute_logprobs(queries), strict=True
            )
        ]
    return trie_scores


def _merge_targets(*targets: tuple[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Tokens by place; each place once, and at each place each token once."""
    merged: dict[int, tuple[int, ...]] = {}
    for place, tokens in targets:
        merged[place] = tuple(dict.fromkeys((*merged.get(place, ()), *tokens)))
    return merged


def _renormalise_logprobs(logprobs: Mapping[int, float], tokens: Sequence[int]) -> FloatArray:
    """Log-probabilities [1, tokens] among ``tokens`` alone."""
    allowed = np.array([logprobs[token] for token in tokens])
    return (allowed - _logsumexp(allowed))[None]


def _compute_off_set(tokenized: TokenizedBranch, found: Sequence[PositionLogprobs]) -> float:
    logprobs = found[0][tokenized.answer_position]
    inside = math.fsum(math.exp(logprobs[token]) for token in tokenized.first_tokens)
    return max(1.0 - inside, 0.0)  # in this order NaN stays NaN


def _score_text_branch(
    tokenized: TokenizedBranch, found: Sequence[PositionLogprobs]
) -> BranchScores:
    logprobs = []
    for path, candidate, token_logprobs in zip(
        tokenized.paths[1:], tokenized.candidates, found, strict=True
    ):
        start = len(path) - len(candidate)
        logprobs.append(
            math.fsum(token_logprobs[start + place][token] for place, token in enumerate(candidate))
        )
    return BranchScores(tuple(logprobs), _compute_off_set(tokenized, found))


def _logsumexp(values: NDArray[np.floating]) -> float:
    """In float64 where it matters: the sum. Exponentials of a whole vocabulary stay in the logits'
    own format.
    """
    peak = values.max()
    return float(peak) + math.log(float(np.exp(values - peak).sum(dtype=np.float64)))
