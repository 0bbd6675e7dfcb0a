"""The token sequences of one prompt as a tree, so that common beginnings are read once.

The branches of a prompt share the record's text and differ in what follows it: a prefix, options,
candidates that are scored as text. The tree is one segment of a pass in which every token sees its
own ancestors only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import count_common_prefix


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens behind the shared prefix, in preorder: each token's place comes after those of its
    ancestors.

    ``parents``: for each token the place of the one that it continues, -1 for the prefix.
    ``chunk_starts``: the places at which pieces begin that are read in one pass each, in this
    order. ``path_ends``: the place of each path's last token.
    """

    tokens: list[int]
    parents: list[int]
    chunk_starts: list[int]
    path_ends: list[int]

    def get_path(self, place: int) -> list[int]:
        """The places from the prefix to ``place``."""
        path = []
        while place >= 0:
            path.append(place)
            place = self.parents[place]
        return path[::-1]


def build_token_tree(
    paths: Sequence[tuple[int, ...]], prefix_length: int, max_chunk_tokens: int
) -> TokenTree:
    """The tree of all ``paths`` without their first ``prefix_length`` tokens, which all share.

    It is cut into pieces of at most ``max_chunk_tokens`` tokens, or one path: a piece hangs from a
    single token of earlier ones.
    """
    tree = TokenTree([], [], [0], [-1] * len(paths))
    chain: list[int] = []
    for index, shared in _sort_paths(paths):
        path, at = paths[index], max(0, shared - prefix_length)
        new = path[prefix_length + at :]
        if new:
            root, start, size = (
                (chain[at - 1] if at else -1),
                tree.chunk_starts[-1],
                len(tree.tokens),
            )
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
    """Tokens of the tree of ``paths``."""
    return sum(len(paths[index]) - shared for index, shared in _sort_paths(paths))


def compute_depths(parents: Sequence[int]) -> list[int]:
    """The number of ancestors of each token of a tree (see TokenTree.parents)."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def compute_subtree_ends(parents: Sequence[int]) -> list[int]:
    """The index behind the last descendant of each token of a tree.

    In preorder a token's descendants come right behind it, so the tokens that may see a token are
    those from it up to this index.
    """
    ends = list(range(1, len(parents) + 1))
    for index in range(len(parents) - 1, 0, -1):
        if (parent := parents[index]) >= 0:
            ends[parent] = max(ends[parent], ends[index])
    return ends


def _sort_paths(paths: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Paths in order, which is the tree's preorder, by index: each with the number of tokens that
    it shares with the one before.
    """
    order = sorted(range(len(paths)), key=lambda index: paths[index])
    yield from ((index, 0) for index in order[:1])
    yield from (
        (index, count_common_prefix([paths[last], paths[index]]))
        for last, index in itertools.pairwise(order)
    )
