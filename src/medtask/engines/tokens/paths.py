"""The exact probabilities of a closed set from the log-probability of every token of every
candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medtask.engines.tokens.trie import Node


def weigh_paths(root: Node, logprobs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The log-probability of each tail of a trie, renormalised at every branching over the tokens
    that some tail allows.

    ``logprobs[i][j]``: the log-probability, over the whole vocabulary, of token j of tail i behind
    all before it; what stands behind a tail's last branching may be left out. Every token that a
    branching allows is the token of some tail that comes through it, so one number per token of the
    tails is all that there is to know. A branching whose tokens are all impossible (minus infinity)
    gives NaN: nothing can be renormalised there.
    """
    weights = [-math.inf] * len(root.labels)
    waiting: list[tuple[Node, int, float]] = [(root, len(root.reads), 0.0)]
    while waiting:
        node, depth, arrived = waiting.pop()
        told = [logprobs[_any_label(child)][depth] for child in node.children]
        total = _add_logs(told)
        for child, logprob in zip(node.children, told, strict=True):
            here = arrived + (logprob - total if math.isfinite(total) else math.nan)
            if isinstance(child, int):
                weights[child] = here
            elif here != -math.inf:
                # A child's ``reads`` begin with the token that leads to it.
                waiting.append((child, depth + len(child.reads), here))
    return tuple(weights)


def _any_label(child: Node | int) -> int:
    return child if isinstance(child, int) else child.labels[0]


def _add_logs(logs: Sequence[float]) -> float:
    peak = max(logs)
    return (
        peak
        if not math.isfinite(peak)
        else peak + math.log(math.fsum(math.exp(log - peak) for log in logs))
    )
