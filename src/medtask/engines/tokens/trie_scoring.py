"""Scores tokenised branches by walking down their label tries, with any engine's logits.

The tries are read level by level, for all branches together, and only where a node can still change
a reported probability (see trie.expand_node). An engine provides logits or log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.trie import (
    NodeVisit,
    TrieNode,
    TrieScores,
    expand_node,
    log_softmax,
    logsumexp,
)
from medtask.records import BranchScores

Logits = NDArray[np.float32]
TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogprobQuery:
    """A token sequence to read, and the log-probabilities that are needed at its positions.

    Attributes:
        row: Index of the branch that the query belongs to.
        tokens: The whole sequence.
        parent_length: Length of an earlier query of the same row that this one continues, 0 for the
            first one.
        targets: By position in ``tokens``, the tokens whose log-probabilities over the whole
            vocabulary are needed after it.
        choices: The tokens of a trie node after the last position. They are compared with each
            other only, so any constant may be added to their log-probabilities.
    """

    row: int
    tokens: TokenIds
    parent_length: int = 0
    targets: Mapping[int, TokenIds] = field(default_factory=dict)
    choices: TokenIds = ()

    @property
    def all_targets(self) -> Mapping[int, TokenIds]:
        """``targets`` including the choices, each token once."""
        last = len(self.tokens) - 1
        merged = tuple(dict.fromkeys((*self.targets.get(last, ()), *self.choices)))
        return {**self.targets, last: merged} if merged else self.targets

    @property
    def logits_to_keep(self) -> int:
        """The number of last tokens whose logits are needed."""
        return max([1, *(len(self.tokens) - position for position in self.targets)])


@dataclass(frozen=True, slots=True)
class QueryLogprobs:
    """The answer to a query: log-probabilities by position and token, and those of the choices."""

    targets: Mapping[int, Mapping[int, float]]
    choices: Sequence[float]


# The logits [logits_to_keep, vocabulary] of each query, in their order.
LogitsFunction = Callable[[Sequence[LogprobQuery]], Sequence[Logits]]
LogprobsFunction = Callable[[Sequence[LogprobQuery]], Sequence[QueryLogprobs]]


def score_branches(
    branches: Sequence[TokenizedBranch], compute_logits: LogitsFunction
) -> list[BranchScores]:
    """Score branches together; ``compute_logits`` is called once, and once for each further level
    of the tries.
    """

    def compute_logprobs(queries: Sequence[LogprobQuery]) -> list[QueryLogprobs]:
        return [
            _extract_logprobs(query, logits)
            for query, logits in zip(queries, compute_logits(queries), strict=True)
        ]

    return score_branches_from_logprobs(branches, compute_logprobs)


def score_branches_from_logprobs(
    branches: Sequence[TokenizedBranch], compute_logprobs: LogprobsFunction
) -> list[BranchScores]:
    """Score branches as score_branches does, from log-probabilities instead of logits."""
    queries = [query for row, branch in enumerate(branches) for query in _start(row, branch)]
    answers: list[list[QueryLogprobs]] = [[] for _ in branches]
    for query, answer in zip(queries, compute_logprobs(queries), strict=True):
        answers[query.row].append(answer)
    scores = [
        BranchScores(
            () if branch.trie is not None else _sum_candidate_logprobs(branch, own),
            _compute_off_set(branch, own[0]),
        )
        for branch, own in zip(branches, answers, strict=True)
    ]
    for rows, trie_scores in _walk_tries(branches, answers, compute_logprobs):
        for row, logprobs, slack in zip(
            rows, trie_scores.logprobs.tolist(), trie_scores.slack.tolist(), strict=True
        ):
            scores[row] = BranchScores(tuple(logprobs), scores[row].off_set, slack)
    return scores


def _start(row: int, branch: TokenizedBranch) -> Iterator[LogprobQuery]:
    """The first queries of a branch: its prefix, or each candidate of a branch scored as text."""
    if branch.trie is not None:
        targets = {branch.answer_position: branch.first_tokens}
        yield LogprobQuery(row, branch.prefix_tokens, 0, targets, branch.trie.tokens)
        return
    for path, candidate in zip(branch.paths[1:], branch.candidates, strict=True):
        targets = dict(_iterate_steps(path, candidate))
        first = targets.get(branch.answer_position, ())
        targets[branch.answer_position] = tuple(dict.fromkeys((*branch.first_tokens, *first)))
        yield LogprobQuery(row, path, 0, targets)


def _iterate_steps(path: TokenIds, candidate: TokenIds) -> Iterator[tuple[int, TokenIds]]:
    """Each token of a candidate with the position that it follows; ``path`` are the tokens that are
    read, which excludes the candidate's last token.
    """
    start = len(path) - len(candidate)
    return ((start + index, (token,)) for index, token in enumerate(candidate))


@dataclass(frozen=True, slots=True)
class _ReachedNode:
    """A node that rows of one trie have reached.

    ``rows`` are the branches with this trie; ``scores`` and ``visit`` index them in the same order.
    ``paths`` and ``choices`` hold, for each row of the visit, the tokens up to the node and the
    log-probabilities of the node's tokens.
    """

    rows: Sequence[int]
    scores: TrieScores
    visit: NodeVisit
    paths: Sequence[TokenIds]
    choices: Sequence[Sequence[float]]


def _walk_tries(
    branches: Sequence[TokenizedBranch],
    answers: Sequence[Sequence[QueryLogprobs]],
    compute_logprobs: LogprobsFunction,
) -> Iterable[tuple[Sequence[int], TrieScores]]:
    """The scores of each trie, with the rows that they belong to."""
    # All prompts with the same branch have the same trie, unless the tokenizer merged the end of a
    # prompt with the labels.
    rows_of_tries: dict[int, list[int]] = {}
    for row, branch in enumerate(branches):
        if branch.trie is not None:
            rows_of_tries.setdefault(id(branch.trie), []).append(row)
    roots = []
    for rows in rows_of_tries.values():
        trie = branches[rows[0]].trie
        assert trie is not None
        roots.append(
            _ReachedNode(
                rows,
                TrieScores.empty(len(rows), len(trie.candidate_indices)),
                NodeVisit(trie, np.arange(len(rows)), np.zeros(len(rows))),
                [branches[row].prefix_tokens for row in rows],
                [answers[row][0].choices for row in rows],
            )
        )
    level = roots
    while level:
        level = _read_next_level(level, compute_logprobs)
    return [(root.rows, root.scores) for root in roots]


def _read_next_level(
    level: Sequence[_ReachedNode], compute_logprobs: LogprobsFunction
) -> list[_ReachedNode]:
    """Score the nodes of a level, and read the nodes below them that can still change a result."""
    unread = [
        (reached, visit)
        for reached in level
        for visit in expand_node(
            reached.scores, reached.visit, log_softmax(np.array(reached.choices, np.float64))
        )
    ]
    if not unread:
        return []
    queries = [query for reached, visit in unread for query in _continue_paths(reached, visit)]
    # Sorted by row like the first queries: the queries of a row stay together.
    order = sorted(range(len(queries)), key=lambda index: queries[index].row)
    found = compute_logprobs([queries[index] for index in order])
    answers = dict(zip(order, found, strict=True))
    next_level, start = [], 0
    for reached, visit in unread:
        own = range(start, start + len(visit.rows))
        next_level.append(
            _ReachedNode(
                reached.rows,
                reached.scores,
                visit,
                [queries[index].tokens for index in own],
                [answers[index].choices for index in own],
            )
        )
        start = own.stop
    return next_level


def _continue_paths(reached: _ReachedNode, visit: NodeVisit) -> Iterator[LogprobQuery]:
    node: TrieNode = visit.node
    paths = dict(zip(reached.visit.rows.tolist(), reached.paths, strict=True))
    for index in visit.rows.tolist():
        path = paths[index]
        yield LogprobQuery(
            reached.rows[index], path + node.edge_tokens, len(path), choices=node.tokens
        )


def _extract_logprobs(query: LogprobQuery, logits: Logits) -> QueryLogprobs:
    targets = {}
    for position, tokens in query.targets.items():
        row = logits[position - len(query.tokens)]
        logprobs = row[list(tokens)].astype(np.float64) - logsumexp(row)
        targets[position] = dict(zip(tokens, logprobs.tolist(), strict=True))
    return QueryLogprobs(targets, logits[-1][list(query.choices)].tolist())


def _compute_off_set(branch: TokenizedBranch, answer: QueryLogprobs) -> float:
    logprobs = answer.targets[branch.answer_position]
    inside = math.fsum(math.exp(logprobs[token]) for token in branch.first_tokens)
    return max(1.0 - inside, 0.0)  # in this order NaN stays NaN


def _sum_candidate_logprobs(
    branch: TokenizedBranch, answers: Sequence[QueryLogprobs]
) -> tuple[float, ...]:
    """The log-likelihood of each candidate of a branch that is scored as text."""
    return tuple(
        math.fsum(
            answer.targets[position][token]
            for position, (token,) in _iterate_steps(path, candidate)
        )
        for path, candidate, answer in zip(
            branch.paths[1:], branch.candidates, answers, strict=True
        )
    )
