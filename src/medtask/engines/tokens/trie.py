"""The label trie and the choice of its nodes that must be read.

The probability of a label is the probability that constrained decoding ends in it. At each node of
the trie of all labels' tokens, the model's next-token probabilities are renormalised over the
tokens that some label allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.errors import InputError

FloatArray = NDArray[np.float64]

# A node is read while this can still change a reported probability by more than this value. It is
# half of the guaranteed 1e-4: the other half is left for rounding.
TOLERANCE = 5e-5


@dataclass(frozen=True, slots=True)
class TrieNode:
    """A node at which labels branch.

    Attributes:
        edge_tokens: Tokens from the parent node to this one.
        tokens: The tokens that the labels allow here.
        children: ``tokens[i]`` leads to ``children[i]``: a further node, or the index of the only
            label left.
        candidate_indices: Indices of all labels below the node.
    """

    edge_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    children: tuple[TrieNode | int, ...]
    candidate_indices: tuple[int, ...]


def build_trie(candidates: Sequence[Sequence[int]], prefix_length: int = 0) -> TrieNode:
    """Build the trie of tokenised candidates. The ``edge_tokens`` of its root are shared by all.

    Args:
        candidates: The tokens of each candidate. A single candidate gives a root with one child.
        prefix_length: Number of tokens at the start of each candidate that belong to the prompt.

    Raises:
        InputError: Two candidates have the same tokens or one is a prefix of another, so that they
            cannot be distinguished.
    """
    root = _build_node(candidates, tuple(range(len(candidates))), 0)
    if isinstance(root, TrieNode):
        return root
    return TrieNode(
        edge_tokens=tuple(candidates[0][:prefix_length]),
        tokens=(candidates[0][prefix_length],),
        children=(0,),
        candidate_indices=(0,),
    )


def _build_node(
    candidates: Sequence[Sequence[int]], candidate_indices: tuple[int, ...], start: int
) -> TrieNode | int:
    if len(candidate_indices) == 1:
        return candidate_indices[0]
    depth = start
    while True:
        groups: dict[int | None, list[int]] = {}
        for index in candidate_indices:
            candidate = candidates[index]
            token = candidate[depth] if depth < len(candidate) else None
            groups.setdefault(token, []).append(index)
        if None in groups:
            first = groups[None][0]
            second = next(index for index in candidate_indices if index != first)
            raise InputError(
                f"labels {first + 1} and {second + 1} of the task are the same, or one ends "
                "inside the other, in this model's tokens",
                fix="rename one of them",
            )
        if len(groups) > 1:
            break
        depth += 1
    reads = tuple(candidates[candidate_indices[0]][start:depth])
    tokens = tuple(token for token in groups if token is not None)
    children = tuple(_build_node(candidates, tuple(groups[token]), depth) for token in tokens)
    return TrieNode(reads, tokens, children, candidate_indices)


@dataclass(frozen=True, slots=True)
class NodeVisit:
    """A node reached by ``rows`` (indices into the pack), each with the log-probability of the path
    to the node.
    """

    node: TrieNode
    rows: NDArray[np.intp]
    logprobs: FloatArray


@dataclass(slots=True)
class TrieScores:
    """Log-probabilities of all labels for the rows of one pack [rows, labels], and the bound on the
    error due to unread nodes [rows].
    """

    logprobs: FloatArray
    slack: FloatArray

    @classmethod
    def empty(cls, rows: int, candidate_count: int) -> TrieScores:
        return cls(np.full((rows, candidate_count), -np.inf), np.zeros(rows))


def expand_node(
    scores: TrieScores, visit: NodeVisit, child_logprobs: FloatArray
) -> Iterator[NodeVisit]:
    """Score the children of a node, and yield the further nodes that must be read.

    ``child_logprobs`` [rows of the visit, tokens of the node]: log-probabilities over the node's
    tokens, renormalised.
    """
    logprobs = visit.logprobs[:, None] + child_logprobs
    for column, child in enumerate(visit.node.children):
        mass = logprobs[:, column]
        if isinstance(child, int):
            scores.logprobs[visit.rows, child] = mass
            continue
        count = len(child.candidate_indices)
        # The labels below an unread node are reported with equal shares; the true share of a label
        # is between zero and all of the node's mass.
        error = np.exp(mass) * (count - 1) / count
        unread = ~(error > TOLERANCE)  # NaN is not read either: the row fails in any case
        rows = visit.rows[unread]
        scores.logprobs[rows[:, None], list(child.candidate_indices)] = (
            mass[unread] - np.log(count)
        )[:, None]
        scores.slack[rows] = np.fmax(scores.slack[rows], error[unread])
        if not unread.all():
            yield NodeVisit(child, visit.rows[~unread], mass[~unread])


def compute_candidate_logprobs(
    root: TrieNode, logprobs: Sequence[Sequence[float]]
) -> tuple[float, ...]:
    """The log-probability of each candidate from those of all its tokens.

    Every token that a node allows is a token of some candidate that passes the node, so one number
    per token of the candidates is enough to renormalise at each node.

    Args:
        root: The trie of the candidates.
        logprobs: ``logprobs[i][j]`` is the log-probability, over the whole vocabulary, of token j
            of candidate i after all tokens before it. Tokens after a candidate's last node may be
            missing.

    Returns:
        One number per candidate; NaN below a node at which all tokens are impossible.
    """
    candidate_logprobs = [-math.inf] * len(root.candidate_indices)
    waiting: list[tuple[TrieNode, int, float]] = [(root, len(root.edge_tokens), 0.0)]
    while waiting:
        node, depth, node_logprob = waiting.pop()
        token_logprobs = [
            logprobs[child if isinstance(child, int) else child.candidate_indices[0]][depth]
            for child in node.children
        ]
        total = logsumexp(np.array(token_logprobs))
        for child, logprob in zip(node.children, token_logprobs, strict=True):
            child_logprob = node_logprob + logprob - total
            if isinstance(child, int):
                candidate_logprobs[child] = child_logprob
            elif child_logprob != -math.inf:
                # A child's ``edge_tokens`` begin with the token that leads to it.
                waiting.append((child, depth + len(child.edge_tokens), child_logprob))
    return tuple(candidate_logprobs)


def logsumexp(values: NDArray[np.floating]) -> float:
    """The logarithm of the sum of exponentials, summed in float64; NaN without a finite maximum.

    The exponentials of a whole vocabulary keep the dtype of the values.
    """
    peak = values.max()
    if not np.isfinite(peak):
        return math.nan
    return float(peak) + math.log(float(np.exp(values - peak).sum(dtype=np.float64)))


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log-softmax over the last axis, in float64; NaN if no value is finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        normalised: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def list_node_paths(root: TrieNode) -> Iterator[tuple[int, ...]]:
    """The tokens from the root to each node below it."""
    for child in root.children:
        if isinstance(child, TrieNode):
            yield child.edge_tokens
            yield from (child.edge_tokens + path for path in list_node_paths(child))


def count_node_tokens(root: TrieNode) -> int:
    """The number of tokens of all nodes below the root."""
    return sum(
        len(child.edge_tokens) + count_node_tokens(child)
        for child in root.children
        if isinstance(child, TrieNode)
    )


def compute_mean_label_tokens(root: TrieNode) -> float:
    """The mean over the labels of the number of tokens read to distinguish a label from all others,
    without the label's own branch token.
    """

    def walk(node: TrieNode, depth: int) -> int:
        total = 0
        for child in node.children:
            total += (
                depth if isinstance(child, int) else walk(child, depth + len(child.edge_tokens))
            )
        return total

    return walk(root, 0) / max(1, len(root.candidate_indices))
