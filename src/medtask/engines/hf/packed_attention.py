"""Many rows in one forward pass: each row sees the shared prefix and itself, and nothing of its
neighbours.

A pass reads *segments*: runs of tokens, laid end to end in one sequence without padding, so that
every matrix product outside attention works on real tokens only. A segment sees the shared prefix,
its own ancestors (segments of earlier passes that it continues) and itself; where its tokens fork,
each sees its own line only. The first pass over a pack reads the rows; later ones read the branches
of the label trie, with the rows as ancestors.

Attention is our own function, registered with transformers under ATTENTION. It keeps the keys and
values itself, which spares the copies of a Cache, and it reaches the running pass through the
model's keyword arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from medtask.errors import EngineError

ATTENTION = "medtask_packed"

# Attention scores held at once, in elements: few enough to stay in a processor's cache. Long rows
# are cut into blocks of queries to stay below it: the score matrix is the only thing that grows
# with the square of a
# row's length.
MAX_SCORE_ELEMENTS = 1 << 21

KvPair = tuple[Tensor, Tensor]


@dataclass(slots=True)
class KvCache:
    """Keys and values of ``tokens`` tokens, per layer: each [tokens, key-value heads, head
    size].
    """

    tokens: int = 0
    layers: dict[int, KvPair] = field(default_factory=dict)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> KvPair:
        """Add one layer's new tokens and return all of that layer's."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat((old_keys, keys)), torch.cat((old_values, values))
        self.layers[layer] = keys, values
        return keys, values


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens to read, after ``ancestors``: indices into the pack's own keys and values, in the
    order they were read.

    ``parents``: for each token the place in ``tokens`` of the one that it continues, -1 for the
    last ancestor; in preorder, so that a token's descendants come right behind it. None: each
    continues the one before it.
    """

    tokens: Sequence[int]
    ancestors: Sequence[int] = ()
    parents: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class ForkIndex:
    """Where the tokens of a pass stand that do not simply follow each other. Both [segments,
    deepest], as Pass.keys.

    ``offsets``: a key's distance from the prefix. ``subtree_ends``: the slot behind its last
    descendant. In preorder a query sees the keys that come no later than it and whose descendants
    have not ended before it.
    """

    offsets: Tensor
    subtree_ends: Tensor


@dataclass(slots=True)
class PackedPass:
    """One forward pass over segments: where each token stands, and who may see whom. Index tensors
    are on the device.

    ``query_indices`` [segments, longest] points into the pass's own tokens, ``key_indices``
    [segments, deepest] into the pack's: a segment's ancestors, then its own tokens. Without
    ``forks`` a key's slot in that row is its distance from the prefix. Slots past a segment's end
    point at token 0; ``token_mask`` [segments, longest] tells them apart.
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
    first_index: int
    forks: ForkIndex | None = None
    _masks: dict[int | None, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def token_indices(self, segment: int) -> list[int]:
        """Where a segment's tokens stand among the pack's own tokens: what its children name as
        ancestors.
        """
        indices: list[int] = (
            self.query_indices[segment][self.token_mask[segment]] + self.first_index
        ).tolist()
        return indices

    def get_masks(
        self, window: int | None, rows: slice, block: slice, key_count: int
    ) -> tuple[Tensor | None, Tensor]:
        """What the queries of a block may not see, of the prefix (None: they see all of it) and of
        their first ``key_count`` keys.

        Both broadcast to [segments, queries, keys]. Masks of a whole pass are kept for its other
        layers.
        """
        whole = rows.stop >= len(self.query_indices) and block.stop >= self.query_indices.shape[1]
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
    """Plan a pass over ``segments``, which continue ``pack_cache`` after ``prefix_cache``, and
    count its tokens into ``pack_cache``.
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
        first_index=first_index,
        forks=forks,
    )


def _build_fork_index(
    segments: Sequence[Segment], max_keys: int, device: torch.device
) -> ForkIndex:
    offsets = torch.arange(max_keys).repeat(len(segments), 1)
    subtree_ends = torch.full_like(offsets, torch.iinfo(offsets.dtype).max)
    for index, segment in enumerate(segments):
        if segment.parents is not None:
            depth, count = len(segment.ancestors), len(segment.parents)
            place, end = [depth] * count, list(range(1, count + 1))
            for at, parent in enumerate(segment.parents):
                place[at] = depth if parent < 0 else place[parent] + 1
            for at in range(count - 1, 0, -1):
                if (parent := segment.parents[at]) >= 0:
                    end[parent] = max(end[parent], end[at])
            offsets[index, depth : depth + count] = torch.tensor(place)
            subtree_ends[index, depth : depth + count] = torch.tensor(end) + depth
    return ForkIndex(offsets.to(device), subtree_ends.to(device))


class AttentionPass(Protocol):
    """A pass that keeps its keys and values in a way of its own."""

    tokens: Tensor
    positions: Tensor

    def compute_attention(
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
        """As the function attend, for this pass."""


@torch.inference_mode()
def run_forward_pass(decoder: Any, plan: PackedPass | AttentionPass) -> Tensor:
    """Read the pass's tokens; the decoder's last hidden states [tokens, hidden size]. Fills the
    pack's keys and values.
    """
    out = decoder(
        input_ids=plan.tokens[None],
        position_ids=plan.positions[None],
        use_cache=False,
        packed_pass=plan,
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def compute_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_pass: PackedPass | AttentionPass | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer for one Pass (a Step has its own). Tensors come as transformers gives
    them: [1, heads, tokens, head size].
    """
    if packed_pass is None:
        raise EngineError(
            "this model does not hand its attention what a packed pass needs",
            fix="report the model's name",
        )
    if not isinstance(packed_pass, PackedPass):
        return packed_pass.compute_attention(
            module.layer_idx, query, key, value, scaling, sliding_window, softcap, s_aux
        ), None
    plan, layer = packed_pass, module.layer_idx
    keys, values = plan.pack_cache.append(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    heads, size = query.shape[1], query.shape[3]
    scale = scaling if scaling is not None else size**-0.5
    queries = (query[0].transpose(0, 1) * scale)[plan.query_indices]
    prefix = plan.prefix_cache.layers.get(layer)

    segments, longest = plan.query_indices.shape
    width = plan.prefix_cache.tokens + plan.key_indices.shape[1]
    out = torch.empty(
        segments, longest, heads, value.shape[3], dtype=value.dtype, device=value.device
    )
    # Whole segments while they are small, single segments in blocks of queries when they are long.
    segments_at_once = max(1, MAX_SCORE_ELEMENTS // (heads * width * longest))
    block = longest if segments_at_once > 1 else max(1, MAX_SCORE_ELEMENTS // (heads * width))
    for top in range(0, segments, segments_at_once):
        rows = slice(top, top + segments_at_once)
        for start in range(0, longest, block):
            piece = slice(start, start + block)
            # No query of this block sees a key behind its end.
            key_count = min(
                plan.key_indices.shape[1], int(plan.ancestor_counts[rows].max()) + piece.stop
            )
            index = plan.key_indices[rows, :key_count]
            own = keys[index], values[index]
            masked = plan.get_masks(sliding_window, rows, piece, key_count)
            fused = block < longest and softcap is None and s_aux is None
            out[rows, piece] = (
                compute_attention_fused(queries[rows, piece], prefix, own, masked)
                if fused
                else compute_attention_eager(
                    queries[rows, piece], prefix, own, masked, softcap, s_aux
                )
            )
    return out[plan.token_mask][None], None


def compute_attention_fused(
    queries: Tensor,
    prefix_pair: KvPair | None,
    own_pair: KvPair,
    masked: tuple[Tensor | None, Tensor],
) -> Tensor:
    """The same as attend_block by torch's fused kernel, which is faster once keys are many and
    segments few.
    """
    group = queries.shape[2] // own_pair[0].shape[2]
    if prefix_pair is not None:
        first, second = (
            torch.cat((a.expand(len(queries), -1, -1, -1), b), dim=1)
            for a, b in zip(prefix_pair, own_pair, strict=True)
        )
        own_pair = first, second
    keys, values = (side.transpose(1, 2).repeat_interleave(group, dim=1) for side in own_pair)
    prefix_hidden, own_hidden = masked
    seen = ~own_hidden.expand(len(queries), queries.shape[1], -1)
    if prefix_pair is not None:
        before = (
            seen.new_ones(*seen.shape[:2], prefix_pair[0].shape[0])
            if prefix_hidden is None
            else ~prefix_hidden
        )
        seen = torch.cat((before, seen), dim=2)
    out = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=seen[:, None], scale=1.0
    )
    return out.transpose(1, 2)


def compute_attention_eager(
    queries: Tensor,
    prefix_pair: KvPair | None,
    own_pair: KvPair,
    masked: tuple[Tensor | None, Tensor],
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """``queries`` [segments, queries, heads, size] over the prefix's and the segments' own keys;
    softmax in float32.
    """
    segments, count, heads, size = queries.shape
    kv_heads = own_pair[0].shape[2]
    shape = kv_heads, segments, count, heads // kv_heads
    # [kv heads, segments, queries x group, size]: one product per key-value head serves all its
    # query heads.
    q = (
        queries.view(segments, count, kv_heads, -1, size)
        .permute(2, 0, 1, 3, 4)
        .reshape(kv_heads, segments, -1, size)
    )
    own_keys, own_values = (side.permute(2, 0, 1, 3) for side in own_pair)
    parts = [_mask_scores(q @ own_keys.transpose(2, 3), masked[1], shape, softcap)]
    if prefix_pair is not None:
        parts.append(
            _mask_scores(
                q.reshape(kv_heads, -1, size) @ prefix_pair[0].permute(1, 2, 0),
                masked[0],
                shape,
                softcap,
            )
        )
    sink = (
        None if sinks is None else sinks.float().view(kv_heads, 1, 1, -1, 1)
    )  # takes weight and has no value (GPT-OSS)

    # One softmax over both parts, in place: joining them would copy the widest thing there is,
    # twice. It is detached for training: a softmax does not depend on what is subtracted, and amax
    # would
    # keep what changes in place.
    peak = torch.stack([part.detach().amax(dim=-1, keepdim=True) for part in parts]).amax(dim=0)
    peak = peak if sink is None else torch.maximum(peak, sink)
    total = torch.stack([part.sub_(peak).exp_().sum(dim=-1, keepdim=True) for part in parts]).sum(
        dim=0
    )
    total = total if sink is None else total + (sink - peak).exp()
    out = parts[0].to(own_values.dtype).view(kv_heads, segments, count * shape[3], -1) @ own_values
    if prefix_pair is not None:
        weights = parts[1].to(own_values.dtype).view(kv_heads, out.shape[1] * out.shape[2], -1)
        out += (weights @ prefix_pair[1].transpose(0, 1)).view(out.shape)
    out = out.view(*shape, -1) / total.to(out.dtype)
    return out.permute(1, 2, 0, 3, 4).reshape(segments, count, heads, -1)


def _mask_scores(
    scores: Tensor, masked: Tensor | None, shape: tuple[int, int, int, int], softcap: float | None
) -> Tensor:
    scores = scores.float().view(*shape, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return (
        scores if masked is None else scores.masked_fill_(masked[None, :, :, None, :], -torch.inf)
    )
