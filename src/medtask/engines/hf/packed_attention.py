"""Packed attention: many rows in one forward pass, without attention between rows.

A pass reads *segments*: runs of tokens, concatenated in one sequence without padding, so that every
matrix product outside attention computes real tokens only. A segment attends to the shared prefix,
its own ancestors (segments of earlier passes that it continues) and itself. Where its tokens fork,
each token attends to its own path only. The first pass over a pack reads the rows; later ones read
the branches of the label trie, with the rows as ancestors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medtask.engines.hf.attention import (
    AttentionCall,
    KvPair,
    MaskPair,
    compute_attention_eager,
    compute_attention_fused,
)
from medtask.engines.hf.fused_attention import (
    PartialAttention,
    attend_masked,
    attend_prefix,
    attend_segments,
    can_fuse,
    merge,
)
from medtask.engines.tokens.token_tree import compute_depths, compute_subtree_ends

# Maximum number of attention scores computed at once, so that they fit into a processor's cache.
# Long rows are split into blocks of queries to stay below it, because the score matrix grows with
# the square of a row's length.
MAX_SCORE_ELEMENTS = 1 << 21


@dataclass(slots=True)
class KvCache:
    """Keys and values of ``tokens`` tokens, per layer: each [tokens, key-value heads, head
    size].
    """

    tokens: int = 0
    layers: dict[int, KvPair] = field(default_factory=dict)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> KvPair:
        """Append one layer's new tokens and return all tokens of that layer."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat((old_keys, keys)), torch.cat((old_values, values))
        self.layers[layer] = keys, values
        return keys, values

    def truncate(self, tokens: int) -> KvCache:
        """The first ``tokens`` tokens, without copies."""
        return KvCache(
            tokens,
            {
                layer: (keys[:tokens], values[:tokens])
                for layer, (keys, values) in self.layers.items()
            },
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens to read in one pass.

    Attributes:
        tokens: The token ids.
        ancestors: Indices into the pack's own keys and values, in the order they were read.
        parents: For each token the index in ``tokens`` of the one that it continues, -1 for the
            last ancestor; in preorder, so that a token's descendants follow it directly. None if
            each token continues the one before it.
    """

    tokens: Sequence[int]
    ancestors: Sequence[int] = ()
    parents: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class ForkIndex:
    """Positions of the tokens of a pass with forks. Both tensors are [segments, deepest], like
    PackedPass.key_indices.

    ``offsets`` is a key's distance from the prefix, ``subtree_ends`` the slot after its last
    descendant. In preorder a query attends to the keys that do not come after it and whose
    descendants do not end before it.
    """

    offsets: Tensor
    subtree_ends: Tensor


@dataclass(slots=True)
class PackedPass:
    """One forward pass over segments: token positions and attention masks. Index tensors are on the
    device.

    ``query_indices`` [segments, longest] are indices into the pass's own tokens, ``key_indices``
    [segments, deepest] into the pack's: a segment's ancestors, then its own tokens. Without
    ``forks`` a key's slot in that row is its distance from the prefix. Slots after a segment's end
    have index 0 and are False in ``token_mask`` [segments, longest]. ``is_causal``: there are no
    ancestors and no forks, so that each token attends to all tokens of its segment before it.
    """

    prefix_cache: KvCache
    pack_cache: KvCache
    tokens: Tensor
    positions: Tensor
    query_indices: Tensor
    token_mask: Tensor
    key_indices: Tensor
    ancestor_counts: Tensor
    last_indices: Tensor
    segment_starts: list[int]
    is_causal: bool
    forks: ForkIndex | None = None
    _masks: dict[int | None, MaskPair] = field(default_factory=dict)
    _bias: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        """Token count of each segment."""
        return [end - start for start, end in itertools.pairwise(self.segment_starts)]

    def token_indices(self, segment: int) -> list[int]:
        """Indices of a segment's tokens among the pack's own tokens, which its children use as
        ancestors.
        """
        return list(range(self.segment_starts[segment], self.segment_starts[segment + 1]))

    def compute_attention(self, call: AttentionCall) -> Tensor:
        """See AttentionPass; appends the call's keys and values to the pack's."""
        keys, values = self.pack_cache.append(
            call.layer, call.key[0].transpose(0, 1), call.value[0].transpose(0, 1)
        )
        if not can_fuse(call) or self._reaches_window(call.window):
            return self._compute_eager(call, keys, values)
        if self.is_causal:
            own = attend_segments(call, self.lengths)
        elif keys.device.type == "cpu":
            own = self._attend_masked(call, keys, values)
        else:
            return self._compute_eager(call, keys, values)
        prefix_pair = self.prefix_cache.layers.get(call.layer)
        out = own.output if prefix_pair is None else merge(attend_prefix(call, prefix_pair), own)
        return out.flatten(1, 2)[None]

    def _reaches_window(self, window: int | None) -> bool:
        """Whether some token does not attend to all tokens before it."""
        return window is not None and (
            self.prefix_cache.tokens + self.key_indices.shape[1] > window
        )

    def _compute_eager(self, call: AttentionCall, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of any kind, with the scores of a block in memory."""
        heads = call.query.shape[1]
        queries = (call.query[0].transpose(0, 1) * call.scale)[self.query_indices]
        prefix = self.prefix_cache.layers.get(call.layer)
        out = values.new_empty(*self.query_indices.shape, heads, values.shape[2])
        for rows, block, key_count in self._iterate_blocks(heads, self.prefix_cache.tokens):
            index = self.key_indices[rows, :key_count]
            own = keys[index], values[index]
            masked = self.get_masks(call.window, rows, block, key_count)
            is_long = block.stop - block.start < self.query_indices.shape[1]
            out[rows, block] = (
                compute_attention_fused(queries[rows, block], prefix, own, masked)
                if is_long and call.is_plain
                else compute_attention_eager(queries[rows, block], prefix, own, masked, call)
            )
        return out[self.token_mask][None]

    def _attend_masked(self, call: AttentionCall, keys: Tensor, values: Tensor) -> PartialAttention:
        """Attention of segments with ancestors or forks to their own keys."""
        queries = call.query[0].transpose(0, 1)[self.query_indices]
        segments, longest, heads, size = queries.shape
        kv_heads = keys.shape[1]
        shape = segments, longest, kv_heads, heads // kv_heads
        output, logsumexp = queries.new_empty(*shape, size), torch.empty(shape)
        for rows, block, key_count in self._iterate_blocks(heads, 0):
            index = self.key_indices[rows, :key_count]
            output[rows, block], logsumexp[rows, block] = attend_masked(
                queries[rows, block],
                (keys[index], values[index]),
                self._get_bias(rows, block, key_count),
                call.scale,
            )
        return PartialAttention(output[self.token_mask], logsumexp[self.token_mask])

    def _iterate_blocks(self, heads: int, prefix_tokens: int) -> Iterator[tuple[slice, slice, int]]:
        """Blocks of queries that are computed at once: segments, their queries, and the number of
        keys that these may attend to.

        Several whole segments while they are short, single segments in blocks of queries when they
        are long.
        """
        segments, longest = self.query_indices.shape
        width = prefix_tokens + self.key_indices.shape[1]
        segments_at_once = max(1, MAX_SCORE_ELEMENTS // (heads * width * longest))
        size = longest if segments_at_once > 1 else max(1, MAX_SCORE_ELEMENTS // (heads * width))
        for top in range(0, segments, segments_at_once):
            rows = slice(top, top + segments_at_once)
            for start in range(0, longest, size):
                block = slice(start, start + size)
                # No query of this block attends to a key after its end.
                key_count = min(
                    self.key_indices.shape[1], int(self.ancestor_counts[rows].max()) + block.stop
                )
                yield rows, block, key_count

    def _get_bias(self, rows: slice, block: slice, key_count: int) -> Tensor:
        """The masks of get_masks without a window, as numbers to add to the scores."""
        whole = self._is_whole(rows, block)
        if whole and self._bias is not None:
            return self._bias
        _, masked = self.get_masks(None, rows, block, key_count)
        bias = torch.zeros(masked.shape).masked_fill_(masked, -torch.inf)
        if whole:
            self._bias = bias
        return bias

    def _is_whole(self, rows: slice, block: slice) -> bool:
        segments, longest = self.query_indices.shape
        return (rows.start, block.start) == (0, 0) and (
            rows.stop >= segments and block.stop >= longest
        )

    def get_masks(self, window: int | None, rows: slice, block: slice, key_count: int) -> MaskPair:
        """The masks of a block of queries for the prefix and their first ``key_count`` keys. Masks
        of a whole pass are kept for its other layers.
        """
        whole = self._is_whole(rows, block)
        if whole and window in self._masks:
            return self._masks[window]
        step = torch.arange(self.query_indices.shape[1], device=self.query_indices.device)[block]
        at = self.ancestor_counts[rows, None] + step[None, :]
        slot = torch.arange(key_count, device=self.query_indices.device)
        place, key_place = at[:, :, None], slot
        masked, prefix_masked = slot > place, None
        if self.forks is not None:
            masked |= self.forks.subtree_ends[rows, None, :key_count] <= place
            place = self.forks.offsets[rows].gather(1, at.clamp(max=self.key_indices.shape[1] - 1))[
                :, :, None
            ]
            key_place = self.forks.offsets[rows, None, :key_count]
        if window is not None:
            masked |= place - key_place >= window
            if self.prefix_cache.tokens + self.key_indices.shape[1] > window:
                prefix_masked = (
                    place
                    + self.prefix_cache.tokens
                    - torch.arange(self.prefix_cache.tokens, device=at.device)
                    >= window
                )
        if whole:
            self._masks[window] = prefix_masked, masked
        return prefix_masked, masked


def build_pass(
    segments: Sequence[Segment], prefix_cache: KvCache, pack_cache: KvCache, device: torch.device
) -> PackedPass:
    """Plan a pass over ``segments``, which continue ``pack_cache`` after ``prefix_cache``. Adds its
    tokens to the token count of ``pack_cache``.
    """
    first_index = pack_cache.tokens
    lengths = torch.tensor([len(segment.tokens) for segment in segments])
    ancestor_counts = torch.tensor([len(segment.ancestors) for segment in segments])
    starts = lengths.cumsum(0) - lengths
    step = torch.arange(int(lengths.max()))
    token_mask = step < lengths[:, None]
    slot = torch.arange(int((lengths + ancestor_counts).max()))
    keys = (first_index + starts - ancestor_counts)[:, None] + slot
    for index, segment in enumerate(segments):
        if segment.ancestors:
            keys[index, : len(segment.ancestors)] = torch.tensor(segment.ancestors)
    keys[slot >= (ancestor_counts + lengths)[:, None]] = 0
    pack_cache.tokens += int(lengths.sum())
    places, forks = ancestor_counts[:, None] + step, None
    if any(segment.parents is not None for segment in segments):
        forks = _build_fork_index(segments, len(slot), device)
        places = forks.offsets.cpu().gather(1, places.clamp(max=len(slot) - 1))
    return PackedPass(
        prefix_cache=prefix_cache,
        pack_cache=pack_cache,
        tokens=torch.tensor(
            [token for segment in segments for token in segment.tokens], device=device
        ),
        positions=(prefix_cache.tokens + places)[token_mask].to(device),
        query_indices=torch.where(token_mask, starts[:, None] + step, 0).to(device),
        token_mask=token_mask.to(device),
        key_indices=keys.to(device),
        ancestor_counts=ancestor_counts.to(device),
        last_indices=(starts + lengths - 1).to(device),
        segment_starts=[first_index, *(first_index + starts + lengths).tolist()],
        is_causal=forks is None and not any(segment.ancestors for segment in segments),
        forks=forks,
    )


def _build_fork_index(
    segments: Sequence[Segment], max_keys: int, device: torch.device
) -> ForkIndex:
    offsets = torch.arange(max_keys).repeat(len(segments), 1)
    subtree_ends = torch.full_like(offsets, torch.iinfo(offsets.dtype).max)
    for index, segment in enumerate(segments):
        if segment.parents is not None:
            first = len(segment.ancestors)
            own = slice(first, first + len(segment.parents))
            offsets[index, own] = torch.tensor(compute_depths(segment.parents)) + first
            subtree_ends[index, own] = torch.tensor(compute_subtree_ends(segment.parents)) + first
    return ForkIndex(offsets.to(device), subtree_ends.to(device))
