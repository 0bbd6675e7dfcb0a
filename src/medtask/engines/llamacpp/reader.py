"""Reads tokenised questions with llama.cpp: the shared prefix once, then all rows in one batch, as
a tree of sequences.

A token may belong to several sequences at once, so what paths have in common is read once, and
every branching of a trie that still matters goes on in a sequence of its own, which begins as a
copy that costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.engines.llamacpp.context import SEQUENCES, Context, Full, Token
from medtask.engines.tokens.tree import grow_tree
from medtask.engines.tokens.walk import Logits, Reading

PREFIX = 0  # the sequence that holds the shared prefix


class Reader:
    """Keeps the last shared prefix, and behind it the sequences of the questions that are being
    read.

    ``tokens_read``: by ``read``, since it was last set to 0.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.prefix: tuple[int, ...] = ()
        self.tokens_read = 0
        self._sequences: dict[tuple[int, ...], int] = {}

    def keep_prefix(self, tokens: tuple[int, ...], cells: int) -> int:
        """Have a shared prefix ready, and room for ``cells`` tokens behind it; how many tokens had
        to be read for it.
        """
        self.drop_rows()
        if not self.context.reserve(len(tokens) + cells) and tokens == self.prefix:
            return 0
        self.context.clear()
        self.prefix = ()
        if tokens:
            self.context.decode(
                [Token(token, place, (PREFIX,)) for place, token in enumerate(tokens)]
            )
        self.prefix = tokens
        return len(tokens)

    def drop_rows(self) -> None:
        """Forget everything behind the prefix."""
        for sequence in self._sequences.values():
            self.context.drop(sequence)
        self._sequences.clear()

    def read(self, readings: Sequence[Reading]) -> list[Logits]:
        """See tokens.walk.Read. All readings begin with the prefix; those that go on behind an
        earlier one continue it.
        """
        parents = {reading.tokens[: reading.behind] for reading in readings if reading.behind}
        self._keep_only(parents)
        free = SEQUENCES - 1 - len(self._sequences)
        logits: list[Logits] = []
        for start in range(0, len(readings), max(1, free)):
            part = readings[start : start + max(1, free)]
            if start:
                self._keep_only(parents)  # those of the part before make room
            try:
                logits += self._read_together(part)
            except Full:
                self.drop_rows()
                logits += self.read_apart(part)
        return logits

    def _keep_only(self, wanted: set[tuple[int, ...]]) -> None:
        for path in [path for path in self._sequences if path not in wanted]:
            self.context.drop(self._sequences.pop(path))

    def _read_together(self, readings: Sequence[Reading]) -> list[Logits]:
        """One batch: behind each kept sequence, the tree of the readings that continue it."""
        groups: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        free = iter(sorted(set(range(1, SEQUENCES)) - set(self._sequences.values())))
        for reading in readings:
            parent = reading.tokens[: reading.behind]
            paths = groups.setdefault(parent if parent in self._sequences else self.prefix, {})
            if reading.tokens not in paths:
                paths[reading.tokens] = next(free)
        tokens: list[Token] = []
        places: dict[
            tuple[int, ...], list[int]
        ] = {}  # by path: where its tokens stand in the batch
        for parent, paths in groups.items():
            for sequence in paths.values():
                self.context.copy(self._sequences.get(parent, PREFIX), sequence)
            places |= _add_tree(paths, len(parent), tokens)
        for paths in groups.values():
            self._sequences |= paths
        marked = {
            place for reading in readings for place in places[reading.tokens][-reading.keep :]
        }
        found = self.context.decode(
            [replace(one, wanted=place in marked) for place, one in enumerate(tokens)]
        )
        self.tokens_read += len(tokens)
        rows = {place: row for row, place in enumerate(sorted(marked))}
        return [
            found[[rows[place] for place in places[reading.tokens][-reading.keep :]]]
            for reading in readings
        ]

    def read_apart(self, readings: Sequence[Reading]) -> list[Logits]:
        """As read, one after the other and each from the prefix on: where there is no room side by
        side, and to compare.
        """
        logits = []
        for reading in readings:
            logits += self._read_together([replace(reading, behind=0)])
            self.drop_rows()
        return logits


def _add_tree(
    paths: Mapping[tuple[int, ...], int], skip: int, tokens: list[Token]
) -> dict[tuple[int, ...], list[int]]:
    """Append the tree of paths, each with its sequence, behind their first ``skip`` tokens; each
    path's tokens' places.
    """
    tree = grow_tree(list(paths), skip, sum(map(len, paths)))
    start = len(tokens)
    owners: list[list[int]] = [[] for _ in tree.tokens]
    places = {}
    for end, (path, sequence) in zip(tree.ends, paths.items(), strict=True):
        chain = tree.chain(end)
        for place in chain:
            owners[place].append(sequence)
        places[path] = [start + place for place in chain]
    depths: list[int] = []
    for parent in tree.parents:
        depths.append(depths[parent] + 1 if parent >= 0 else skip)
    tokens += [
        Token(token, depth, tuple(whose))
        for token, depth, whose in zip(tree.tokens, depths, owners, strict=True)
    ]
    return places
