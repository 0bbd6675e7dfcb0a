"""The label trie, and which of its branchings still have to be read.

The probability of a label is the probability that constrained decoding ends in it: at every
branching of the trie of all labels' tokens, the model's next-token probabilities are renormalised
over the tokens that some label allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.errors import InputError

Floats = NDArray[np.float64]

# A branching is read while reading it can still move a reported probability by more than this. Half
# of the 1e-4 that is promised: the other half is left to rounding.
TOLERANCE = 5e-5


@dataclass(frozen=True, slots=True)
class Node:
    """A branching. ``reads``: tokens from the parent's branching to this one; ``tokens[i]`` leads
    to ``children[i]``: a further branching, or the index of the one label that is left. ``labels``:
    all labels below, by index.
    """

    reads: tuple[int, ...]
    tokens: tuple[int, ...]
    children: tuple[Node | int, ...]
    labels: tuple[int, ...]


def grow_trie(tails: Sequence[Sequence[int]], ask: int = 0) -> Node:
    """The trie of tokenised tails. Its root's ``reads`` are what all of them share.

    ``ask``: tokens at the start of every tail that still belong to the prompt. A lone tail is a
    root with one branch. InputError where two tails have the same tokens or one is the beginning of
    another: nothing could tell them apart.
    """
    root = _grow(tails, tuple(range(len(tails))), 0)
    if isinstance(root, Node):
        return root
    return Node(reads=tuple(tails[0][:ask]), tokens=(tails[0][ask],), children=(0,), labels=(0,))


def _grow(tails: Sequence[Sequence[int]], labels: tuple[int, ...], start: int) -> Node | int:
    if len(labels) == 1:
        return labels[0]
    depth = start
    while True:
        groups: dict[int | None, list[int]] = {}
        for label in labels:
            tail = tails[label]
            groups.setdefault(tail[depth] if depth < len(tail) else None, []).append(label)
        if None in groups:
            first, second = (
                groups[None][0],
                next(label for label in labels if label != groups[None][0]),
            )
            raise InputError(
                f"labels {first + 1} and {second + 1} of the task are the same, or one ends "
                "inside the other, in this model's tokens",
                fix="rename one of them",
            )
        if len(groups) > 1:
            break
        depth += 1
    reads = tuple(tails[labels[0]][start:depth])
    tokens = tuple(token for token in groups if token is not None)
    children = tuple(_grow(tails, tuple(groups[token]), depth) for token in tokens)
    return Node(reads, tokens, children, labels)


@dataclass(frozen=True, slots=True)
class Visit:
    """A branching reached by ``rows`` (indices into the pack), each with the log-probability of
    having come here.
    """

    node: Node
    rows: NDArray[np.intp]
    arrived: Floats


@dataclass(slots=True)
class Tally:
    """Log-probabilities of all labels for the rows of one pack [rows, labels], and the bound on
    what was not read [rows].
    """

    logprobs: Floats
    slack: Floats

    @classmethod
    def blank(cls, rows: int, labels: int) -> Tally:
        return cls(np.full((rows, labels), -np.inf), np.zeros(rows))


def settle(tally: Tally, visit: Visit, branches: Floats) -> Iterator[Visit]:
    """Note what one branching decides and yield the further branchings that must be read.

    ``branches`` [rows of the visit, tokens of the node]: log-probabilities over the node's tokens,
    renormalised.
    """
    arrived = visit.arrived[:, None] + branches
    for column, child in enumerate(visit.node.children):
        mass = arrived[:, column]
        if isinstance(child, int):
            tally.logprobs[visit.rows, child] = mass
            continue
        count = len(child.labels)
        # Unread, each label below is reported with an equal share; the true one may have all of it,
        # or nothing.
        error = np.exp(mass) * (count - 1) / count
        unread = ~(
            error > TOLERANCE
        )  # NaN is not worth reading either: the row fails whatever comes
        rows = visit.rows[unread]
        tally.logprobs[rows[:, None], list(child.labels)] = (mass[unread] - np.log(count))[:, None]
        tally.slack[rows] = np.fmax(tally.slack[rows], error[unread])
        if not unread.all():
            yield Visit(child, visit.rows[~unread], mass[~unread])


def mean_reads(root: Node) -> float:
    """Tokens read, on average over the labels, to tell a label from all others (the label's own
    branch token not counted).
    """

    def walk(node: Node, depth: int) -> int:
        total = 0
        for child in node.children:
            total += depth if isinstance(child, int) else walk(child, depth + len(child.reads))
        return total

    return walk(root, 0) / max(1, len(root.labels))
