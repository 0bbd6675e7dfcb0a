"""Passages laid into one sequence for a forward and a backward pass: what they share once, then
each row's own tokens.

The attention is that of engines.hf.pack with gradients: the prefix attends to itself, every row to
the prefix and to its own ancestors. So the gradients are those of rows that are read one by one,
and the prefix is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from medtask.engines.hf.pack import attend_block, attend_fused
from medtask.engines.tokens.chat import count_shared
from medtask.engines.tokens.tree import Tree, grow_tree
from medtask.train.language.passage import Passage

# Rows of at least so many own tokens are attended to by torch's fused kernel, which keeps no scores
# for the backward pass.
FUSED_FROM = 96


@dataclass(frozen=True, slots=True)
class Read:
    """A pack of passages as it stands in a sequence. ``places``: for each passage and each of its
    lines, where the line's tokens stand in the sequence (an index for every token that was read;
    the last token of a line is not). ``plan``: the pass that is to be made, None for passages that
    are read apart.
    """

    passages: tuple[Passage, ...]
    plan: Sheet | None
    places: tuple[tuple[list[int], ...], ...]


@dataclass(slots=True)
class Sheet:
    """A pass of one sequence: ``prefix`` tokens that all rows share, then each row's own.

    ``queries`` [rows, longest]: where a row's tokens stand behind the prefix (slots past its end
    point at 0); ``filled`` tells them apart. ``hidden`` [rows, longest, longest]: which of its
    row's tokens a token may not see; ``depths`` [rows, longest]: how far from the prefix's end it
    stands.
    """

    tokens: Tensor
    positions: Tensor
    prefix: int
    queries: Tensor
    filled: Tensor
    hidden: Tensor
    depths: Tensor
    back: Tensor
    _masks: dict[tuple[int, bool], Tensor | None] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """See engines.hf.pack.Step. Tensors are [1, heads, tokens, head size]; the result is [1,
        tokens, heads, head size].
        """
        scale = scaling if scaling is not None else query.shape[3] ** -0.5
        asked, keys, values = ((side[0].transpose(0, 1)) for side in (query * scale, key, value))
        first = self.prefix
        before = (keys[:first], values[:first]) if first else None
        own = keys[first:][self.queries], values[first:][self.queries]
        hidden = self._mask_prefix(window), self._mask_own(window)
        row_queries = asked[first:][self.queries]
        plain = softcap is None and sinks is None
        if plain and self.queries.shape[1] >= FUSED_FROM:
            rows = attend_fused(row_queries, before, own, hidden)
        else:
            rows = attend_block(row_queries, before, own, hidden, softcap, sinks)
        # Back from padded rows to the sequence: an index costs less in the backward pass than a
        # mask.
        out = rows.reshape(-1, *rows.shape[2:])[self.back]
        if not first:
            return out[None]
        return torch.cat(
            (
                self._attend_prefix(
                    asked[:first], keys[:first], values[:first], window, softcap, sinks
                ),
                out,
            )
        )[None]

    def _attend_prefix(
        self,
        asked: Tensor,
        keys: Tensor,
        values: Tensor,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """The prefix over itself: [prefix, heads, head size]."""
        count = len(asked)
        if softcap is None and sinks is None and (window is None or window >= count):
            group = asked.shape[1] // keys.shape[1]
            keys, values = (
                side.transpose(0, 1).repeat_interleave(group, dim=0)[None]
                for side in (keys, values)
            )
            out = scaled_dot_product_attention(
                asked.transpose(0, 1)[None], keys, values, is_causal=True, scale=1.0
            )
            return out[0].transpose(0, 1)
        step = torch.arange(count, device=asked.device)
        hidden = step[None, :] > step[:, None]
        if window is not None:
            hidden |= step[:, None] - step[None, :] >= window
        return attend_block(
            asked[None], None, (keys[None], values[None]), (None, hidden[None]), softcap, sinks
        )[0]

    def _mask_own(self, window: int | None) -> Tensor:
        if window is None:
            return self.hidden
        return self._keep(
            window,
            True,
            lambda: self.hidden | (self.depths[:, :, None] - self.depths[:, None, :] >= window),
        )

    def _mask_prefix(self, window: int | None) -> Tensor | None:
        if window is None or not self.prefix or self.prefix + int(self.depths.max()) < window:
            return None
        slots = torch.arange(self.prefix, device=self.depths.device)
        return self._keep(
            window, False, lambda: self.prefix + self.depths[:, :, None] - slots >= window
        )

    def _keep(self, window: int, own: bool, make: Any) -> Tensor:
        """Masks of a window are the same in every layer."""
        found = self._masks.get((window, own))
        if found is None:
            found = self._masks[window, own] = make()
        return found


def lay_passages(passages: Sequence[Passage], device: torch.device, *, share: bool = True) -> Read:
    """Plan one pass over passages. ``share`` False: every row reads all of its tokens itself."""
    paths = [[line.tokens[:-1] for line in passage.lines] for passage in passages]
    skip = 0
    if share and len(passages) > 1:
        skip = min(
            *(passage.shared for passage in passages),
            count_shared([path for row in paths for path in row]),
        )
    trees = [grow_tree(row, skip, sum(map(len, row)) + 1) for row in paths]
    prefix = paths[0][0][:skip]
    longest = max(len(tree.tokens) for tree in trees)
    queries = torch.zeros(len(trees), longest, dtype=torch.long)
    filled = torch.zeros(len(trees), longest, dtype=torch.bool)
    depths = torch.zeros(len(trees), longest, dtype=torch.long)
    hidden = torch.ones(len(trees), longest, longest, dtype=torch.bool).triu_(1)
    start = 0
    for row, tree in enumerate(trees):
        count = len(tree.tokens)
        queries[row, :count] = torch.arange(start, start + count)
        filled[row, :count] = True
        depths[row, :count] = torch.tensor(_measure_depths(tree))
        _hide_lines(hidden[row], tree)
        start += count
    tokens = [*prefix, *(token for tree in trees for token in tree.tokens)]
    positions = torch.cat((torch.arange(skip), (skip + depths)[filled]))
    sheet = Sheet(
        torch.tensor(tokens, device=device),
        positions.to(device),
        skip,
        queries.to(device),
        filled.to(device),
        hidden.to(device),
        depths.to(device),
        filled.flatten().nonzero()[:, 0].to(device),
    )
    laid = _walk(passages, trees, skip)
    return Read(
        tuple(passages),
        sheet,
        tuple(_find_places(passage, tree, skip, first) for passage, tree, first in laid),
    )


def lay_apart(passages: Sequence[Passage], device: torch.device) -> tuple[Read, Tensor, Tensor]:
    """The slow way, for models whose attention cannot be replaced: every line of a passage a row of
    its own, padded on the right.

    What was laid, the tokens [rows, longest] and the mask of what is none. Places are those in the
    rows laid end to end.
    """
    lines = [line.tokens[:-1] for passage in passages for line in passage.lines]
    longest = max(map(len, lines))
    tokens = torch.tensor(
        [[*line, *(line[-1:] * (longest - len(line)))] for line in lines], device=device
    )
    mask = torch.tensor(
        [[1] * len(line) + [0] * (longest - len(line)) for line in lines], device=device
    )
    rows = iter(range(0, len(lines) * longest, longest))
    places = tuple(
        tuple(_count_from(next(rows), len(line.tokens) - 1) for line in passage.lines)
        for passage in passages
    )
    return Read(tuple(passages), None, places), tokens, mask


def _count_from(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def _walk(
    passages: Sequence[Passage], trees: Sequence[Tree], skip: int
) -> Iterator[tuple[Passage, Tree, int]]:
    start = skip
    for passage, tree in zip(passages, trees, strict=True):
        yield passage, tree, start
        start += len(tree.tokens)


def _find_places(passage: Passage, tree: Tree, skip: int, start: int) -> tuple[list[int], ...]:
    shared = list(range(skip))
    return tuple(
        [*shared, *(start + place for place in tree.chain(tree.ends[line]))]
        for line in range(len(passage.lines))
    )


def _measure_depths(tree: Tree) -> list[int]:
    depths: list[int] = []
    for parent in tree.parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def _hide_lines(hidden: Tensor, tree: Tree) -> None:
    """In a tree a token does not see its row's other lines, though they stand before it: hide what
    is no ancestor.

    In preorder a token's descendants come right behind it: it is hidden from whatever comes after
    the last of them.
    """
    count = len(tree.tokens)
    ends = list(range(1, count + 1))
    for at in range(count - 1, 0, -1):
        if (parent := tree.parents[at]) >= 0:
            ends[parent] = max(ends[parent], ends[at])
    for place, end in enumerate(ends):
        if end < count:
            hidden[end:, place] = True
