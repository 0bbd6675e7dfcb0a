"""Token tree of one prompt: common prefixes of its token sequences are read once.

The branches of a prompt share the record's text and differ in the text that follows it: a prefix,
options, candidates that are scored as text. The tree is one segment of a forward pass in which each
token attends to its ancestors only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import count_common_prefix


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens after the shared prefix, in preorder: a token comes after all its ancestors.

    Attributes:
        tokens: The token ids.
        parents: For each token the index of its parent, -1 if it follows the prefix.
        chunk_starts: The indices at which chunks begin. Each chunk is read in one forward pass, in
            this order.
        path_ends: The index of the last token of each path.
    """

    tokens: list[int]
    parents: list[int]
    chunk_starts: list[int]
    path_ends: list[int]

    def get_path(self, place: int) -> list[int]:
        """The indices of the tokens from the prefix to ``place``."""
        path = []
        while place >= 0:
            path.append(place)
            place = self.parents[place]
        return path[::-1]


def build_token_tree(
    paths: Sequence[tuple[int, ...]], prefix_length: int, max_chunk_tokens: int
) -> TokenTree:
    """Build the tree of all ``paths`` without their ``prefix_length`` common first tokens.

    It is cut into chunks of at most ``max_chunk_tokens`` tokens, or a single path. Each chunk is
    attached to a single token of an earlier chunk.
    """
    tree = TokenTree([], [], [0], [-1] * len(paths))
    chain: list[int] = []
    for index, shared in _sort_paths(paths):
        path, at = paths[index], max(0, shared - prefix_length)
        new = path[prefix_length + at :]
        if new:
            root = chain[at - 1] if at else -1
            start = tree.chunk_starts[-1]
            size = len(tree.tokens)
            elsewhere = root < start and size > start and root != tree.parents[start]
            if elsewhere or (size > start and size - start + len(new) > max_chunk_tokens):
                tree.chunk_starts.append(size)
            tree.tokens.extend(new)
            tree.parents.extend((root, *range(size, size + len(new) - 1)))
            chain = [*chain[:at], *range(size, size + len(new))]
        else:
            chain = chain[:at]
        tree.path_ends[index] = chain[-1] if chain else -1
    return tree


def count_tree_tokens(paths: Sequence[tuple[int, ...]]) -> int:
    """The number of tokens of the tree of ``paths``."""
    return sum(len(paths[index]) - shared for index, shared in _sort_paths(paths))


def compute_depths(parents: Sequence[int]) -> list[int]:
    """The number of ancestors of each token of a tree (see TokenTree.parents)."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def compute_subtree_ends(parents: Sequence[int]) -> list[int]:
    """The index after the last descendant of each token of a tree.

    In preorder the descendants of a token follow it directly, so the tokens that attend to a token
    are those from its index up to this one.
    """
    ends = list(range(1, len(parents) + 1))
    for index in range(len(parents) - 1, 0, -1):
        if (parent := parents[index]) >= 0:
            ends[parent] = max(ends[parent], ends[index])
    return ends


def _sort_paths(paths: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Path indices in sorted order, which is the preorder of the tree, each with the number of
    tokens that the path shares with the previous one.
    """
    order = sorted(range(len(paths)), key=lambda index: paths[index])
    yield from ((index, 0) for index in order[:1])
    yield from (
        (index, count_common_prefix([paths[last], paths[index]]))
        for last, index in itertools.pairwise(order)
    )
