"""Packs training examples into one sequence: the shared prefix once, then each row's tokens.

The attention is that of engines.hf.packed_attention with gradients: the prefix attends to itself,
each row to the prefix and to its own ancestors. The gradients equal those of rows read separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from medtask.engines.hf.attention import (
    AttentionCall,
    compute_attention_eager,
    compute_attention_fused,
)
from medtask.engines.tokens.chat import count_common_prefix
from medtask.engines.tokens.token_tree import (
    TokenTree,
    build_token_tree,
    compute_depths,
    compute_subtree_ends,
)
from medtask.training.language.tokenized_example import TokenizedExample

# Longer rows use torch's fused attention, which stores no scores for the backward pass.
MIN_FUSED_LENGTH = 96


@dataclass(frozen=True, slots=True)
class PackedExamples:
    """Training examples in one sequence.

    Attributes:
        forward_pass: The pass over the sequence; None for examples that are padded.
        path_positions: For each example and path, the position of each of its tokens but the last.
    """

    examples: tuple[TokenizedExample, ...]
    forward_pass: TrainingForwardPass | None
    path_positions: tuple[tuple[list[int], ...], ...]


@dataclass(slots=True)
class TrainingForwardPass:
    """A pass over one sequence: ``prefix_length`` tokens shared by all rows, then each row's own.

    Attributes:
        queries: The positions of each row's tokens after the prefix, 0 for padding
            [rows, longest].
        filled: Which of these are not padding [rows, longest].
        hidden: The tokens of its row that a token may not attend to [rows, longest, longest].
        depths: The distance of each token from the prefix's end [rows, longest].
    """

    tokens: Tensor
    positions: Tensor
    prefix_length: int
    queries: Tensor
    filled: Tensor
    hidden: Tensor
    depths: Tensor
    gather_index: Tensor
    _masks: dict[tuple[int, bool], Tensor | None] = field(default_factory=dict)

    def compute_attention(self, call: AttentionCall) -> Tensor:
        """See AttentionPass."""
        queries, keys, values = (
            side[0].transpose(0, 1) for side in (call.query * call.scale, call.key, call.value)
        )
        prefix = slice(0, self.prefix_length)
        prefix_pair = (keys[prefix], values[prefix]) if self.prefix_length else None
        own_queries, own_keys, own_values = (
            side[self.prefix_length :][self.queries] for side in (queries, keys, values)
        )
        masked = self._mask_prefix(call.window), self._mask_own(call.window)
        pairs = prefix_pair, (own_keys, own_values)
        rows = (
            compute_attention_fused(own_queries, *pairs, masked)
            if call.is_plain and self.queries.shape[1] >= MIN_FUSED_LENGTH
            else compute_attention_eager(own_queries, *pairs, masked, call)
        )
        # Converts padded rows back to the sequence: indexing is cheaper than masking in the
        # backward pass.
        out = rows.reshape(-1, *rows.shape[2:])[self.gather_index]
        if prefix_pair is None:
            return out[None]
        return torch.cat((_attend_prefix(queries[prefix], *prefix_pair, call), out))[None]

    def _mask_own(self, window: int | None) -> Tensor:
        if window is None:
            return self.hidden
        return self._cache_mask(
            window,
            True,
            lambda: self.hidden | (self.depths[:, :, None] - self.depths[:, None, :] >= window),
        )

    def _mask_prefix(self, window: int | None) -> Tensor | None:
        if (
            window is None
            or not self.prefix_length
            or self.prefix_length + int(self.depths.max()) < window
        ):
            return None
        slots = torch.arange(self.prefix_length, device=self.depths.device)
        return self._cache_mask(
            window, False, lambda: self.prefix_length + self.depths[:, :, None] - slots >= window
        )

    def _cache_mask(self, window: int, own: bool, build_mask: Any) -> Tensor:
        """Cache the masks of a window, which are the same in every layer."""
        found = self._masks.get((window, own))
        if found is None:
            found = self._masks[window, own] = build_mask()
        return found


def _attend_prefix(queries: Tensor, keys: Tensor, values: Tensor, call: AttentionCall) -> Tensor:
    """Causal attention of the prefix over itself, [prefix, heads, head size]."""
    count, window = len(queries), call.window
    if call.is_plain and (window is None or window >= count):
        group = queries.shape[1] // keys.shape[1]
        keys, values = (
            side.transpose(0, 1).repeat_interleave(group, dim=0)[None] for side in (keys, values)
        )
        out = scaled_dot_product_attention(
            queries.transpose(0, 1)[None], keys, values, is_causal=True, scale=1.0
        )
        return out[0].transpose(0, 1)
    step = torch.arange(count, device=queries.device)
    hidden = step[None, :] > step[:, None]
    if window is not None:
        hidden |= step[:, None] - step[None, :] >= window
    return compute_attention_eager(
        queries[None], None, (keys[None], values[None]), (None, hidden[None]), call
    )[0]


def pack_examples(
    examples: Sequence[TokenizedExample], device: torch.device, *, share_prefix: bool = True
) -> PackedExamples:
    """Plan one pass over examples; without ``share_prefix`` each row reads all of its tokens."""
    paths = [[line.tokens[:-1] for line in example.paths] for example in examples]
    prefix_length = 0
    if share_prefix and len(examples) > 1:
        prefix_length = min(
            *(example.max_prefix_tokens for example in examples),
            count_common_prefix([path for row in paths for path in row]),
        )
    trees = [build_token_tree(row, prefix_length, sum(map(len, row)) + 1) for row in paths]
    prefix = paths[0][0][:prefix_length]
    longest = max(len(tree.tokens) for tree in trees)
    queries = torch.zeros(len(trees), longest, dtype=torch.long)
    filled = torch.zeros(len(trees), longest, dtype=torch.bool)
    depths = torch.zeros(len(trees), longest, dtype=torch.long)
    hidden = torch.ones(len(trees), longest, longest, dtype=torch.bool).triu_(1)
    path_positions = []
    start = 0
    for row, (tree, example) in enumerate(zip(trees, examples, strict=True)):
        count = len(tree.tokens)
        path_positions.append(
            _find_path_positions(example, tree, prefix_length, prefix_length + start)
        )
        queries[row, :count] = torch.arange(start, start + count)
        filled[row, :count] = True
        depths[row, :count] = torch.tensor(compute_depths(tree.parents))
        # A token does not attend to its row's other paths, though they precede it.
        for index, end in enumerate(compute_subtree_ends(tree.parents)):
            hidden[row, end:count, index] = True
        start += count
    tokens = [*prefix, *(token for tree in trees for token in tree.tokens)]
    positions = torch.cat((torch.arange(prefix_length), (prefix_length + depths)[filled]))
    forward_pass = TrainingForwardPass(
        torch.tensor(tokens, device=device),
        positions.to(device),
        prefix_length,
        queries.to(device),
        filled.to(device),
        hidden.to(device),
        depths.to(device),
        filled.flatten().nonzero()[:, 0].to(device),
    )
    return PackedExamples(tuple(examples), forward_pass, tuple(path_positions))


def pad_examples(
    examples: Sequence[TokenizedExample], device: torch.device
) -> tuple[PackedExamples, Tensor, Tensor]:
    """Make each path a row, padded on the right: for models whose attention cannot be replaced.

    Returns:
        The packed examples, the tokens [rows, longest] and the attention mask. Positions are those
        in the flattened rows.
    """
    paths = [path.tokens[:-1] for example in examples for path in example.paths]
    longest = max(map(len, paths))
    tokens = torch.tensor(
        [[*path, *(path[-1:] * (longest - len(path)))] for path in paths], device=device
    )
    mask = torch.tensor(
        [[1] * len(path) + [0] * (longest - len(path)) for path in paths], device=device
    )
    starts = iter(range(0, len(paths) * longest, longest))
    indices = tuple(
        tuple(
            [first + index for index in range(len(path.tokens) - 1)]
            for path, first in zip(example.paths, starts, strict=False)
        )
        for example in examples
    )
    return PackedExamples(tuple(examples), None, indices), tokens, mask


def _find_path_positions(
    example: TokenizedExample, tree: TokenTree, prefix_length: int, start: int
) -> tuple[list[int], ...]:
    shared = list(range(prefix_length))
    return tuple(
        [*shared, *(start + index for index in tree.get_path(tree.path_ends[path]))]
        for path in range(len(example.paths))
    )
