"""The exact probabilities of a closed set from the log-probability of every token of every
candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medtask.engines.tokens.trie import TrieNode


def compute_candidate_logprobs(
    root: TrieNode, logprobs: Sequence[Sequence[float]]
) -> tuple[float, ...]:
    """The log-probability of each tail of a trie, renormalised at every branching over the tokens
    that some tail allows.

    ``logprobs[i][j]``: the log-probability, over the whole vocabulary, of token j of tail i behind
    all before it; what stands behind a tail's last branching may be left out. Every token that a
    branching allows is the token of some tail that comes through it, so one number per token of the
    tails is all that there is to know. A branching whose tokens are all impossible (minus infinity)
    gives NaN: nothing can be renormalised there.
    """
    candidate_logprobs = [-math.inf] * len(root.candidate_indices)
    waiting: list[tuple[TrieNode, int, float]] = [(root, len(root.edge_tokens), 0.0)]
    while waiting:
        node, depth, node_logprob = waiting.pop()
        token_logprobs = [logprobs[_get_any_candidate(child)][depth] for child in node.children]
        total = _logsumexp(token_logprobs)
        for child, logprob in zip(node.children, token_logprobs, strict=True):
            child_logprob = node_logprob + (logprob - total if math.isfinite(total) else math.nan)
            if isinstance(child, int):
                candidate_logprobs[child] = child_logprob
            elif child_logprob != -math.inf:
                # A child's ``reads`` begin with the token that leads to it.
                waiting.append((child, depth + len(child.edge_tokens), child_logprob))
    return tuple(candidate_logprobs)


def _get_any_candidate(child: TrieNode | int) -> int:
    return child if isinstance(child, int) else child.candidate_indices[0]


def _logsumexp(logprobs: Sequence[float]) -> float:
    peak = max(logprobs)
    return (
        peak
        if not math.isfinite(peak)
        else peak + math.log(math.fsum(math.exp(log - peak) for log in logprobs))
    )
