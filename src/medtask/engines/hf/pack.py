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
SCORES_AT_ONCE = 1 << 21

KeyValue = tuple[Tensor, Tensor]


@dataclass(slots=True)
class KeyValues:
    """Keys and values of ``tokens`` tokens, per layer: each [tokens, key-value heads, head
    size].
    """

    tokens: int = 0
    layers: dict[int, KeyValue] = field(default_factory=dict)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> KeyValue:
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
class Forks:
    """Where the tokens of a pass stand that do not simply follow each other. Both [segments,
    deepest], as Pass.keys.

    ``places``: a key's distance from the prefix. ``ends``: the slot behind its last descendant. In
    preorder a query sees the keys that come no later than it and whose descendants have not ended
    before it.
    """

    places: Tensor
    ends: Tensor


@dataclass(slots=True)
class Pass:
    """One forward pass over segments: where each token stands, and who may see whom. Index tensors
    are on the device.

    ``queries`` [segments, longest] points into the pass's own tokens, ``keys`` [segments, deepest]
    into the pack's: a segment's ancestors, then its own tokens. Without ``forks`` a key's slot in
    that row is its distance from the prefix. Slots past a segment's end point at token 0;
    ``filled`` [segments, longest] tells them apart.
    """

    prefix: KeyValues
    own: KeyValues
    tokens: Tensor
    positions: Tensor
    queries: Tensor
    filled: Tensor
    keys: Tensor
    depths: Tensor
    last: Tensor
    first_own: int
    forks: Forks | None = None
    _masks: dict[int | None, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def token_indices(self, segment: int) -> list[int]:
        """Where a segment's tokens stand among the pack's own tokens: what its children name as
        ancestors.
        """
        indices: list[int] = (self.queries[segment][self.filled[segment]] + self.first_own).tolist()
        return indices

    def masks(
        self, window: int | None, rows: slice, block: slice, reach: int
    ) -> tuple[Tensor | None, Tensor]:
        """What the queries of a block may not see, of the prefix (None: they see all of it) and of
        their first ``reach`` keys.

        Both broadcast to [segments, queries, keys]. Masks of a whole pass are kept for its other
        layers.
        """
        whole = rows.stop >= len(self.queries) and block.stop >= self.queries.shape[1]
        if whole and window in self._masks:
            return self._masks[window]
        step = torch.arange(self.queries.shape[1], device=self.queries.device)[block]
        at = self.depths[rows, None] + step[None, :]
        slot = torch.arange(reach, device=self.queries.device)
        place, key_place = at[:, :, None], slot
        hidden, prefix_hidden = slot > place, None
        if self.forks is not None:
            hidden |= self.forks.ends[rows, None, :reach] <= place
            place = self.forks.places[rows].gather(1, at.clamp(max=self.keys.shape[1] - 1))[
                :, :, None
            ]
            key_place = self.forks.places[rows, None, :reach]
        if window is not None:
            hidden |= place - key_place >= window
            if self.prefix.tokens + self.keys.shape[1] > window:
                prefix_hidden = (
                    place + self.prefix.tokens - torch.arange(self.prefix.tokens, device=at.device)
                    >= window
                )
        if whole:
            self._masks[window] = prefix_hidden, hidden
        return prefix_hidden, hidden


def lay_out(
    segments: Sequence[Segment], prefix: KeyValues, own: KeyValues, device: torch.device
) -> Pass:
    """Plan a pass over ``segments``, which continue ``own`` after ``prefix``, and count its tokens
    into ``own``.
    """
    first = own.tokens
    lengths = torch.tensor([len(segment.tokens) for segment in segments])
    depths = torch.tensor([len(segment.ancestors) for segment in segments])
    starts = lengths.cumsum(0) - lengths
    step = torch.arange(int(lengths.max()))
    filled = step < lengths[:, None]
    slot = torch.arange(int((lengths + depths).max()))
    keys = (first + starts - depths)[:, None] + slot
    for index, segment in enumerate(segments):
        if segment.ancestors:
            keys[index, : len(segment.ancestors)] = torch.tensor(segment.ancestors)
    keys[slot >= (depths + lengths)[:, None]] = 0
    own.tokens += int(lengths.sum())
    places, forks = depths[:, None] + step, None
    if any(segment.parents is not None for segment in segments):
        forks = _map_forks(segments, len(slot), device)
        places = forks.places.cpu().gather(1, places.clamp(max=len(slot) - 1))
    return Pass(
        prefix=prefix,
        own=own,
        tokens=torch.tensor(
            [token for segment in segments for token in segment.tokens], device=device
        ),
        positions=(prefix.tokens + places)[filled].to(device),
        queries=torch.where(filled, starts[:, None] + step, 0).to(device),
        filled=filled.to(device),
        keys=keys.to(device),
        depths=depths.to(device),
        last=(starts + lengths - 1).to(device),
        first_own=first,
        forks=forks,
    )


def _map_forks(segments: Sequence[Segment], deepest: int, device: torch.device) -> Forks:
    places = torch.arange(deepest).repeat(len(segments), 1)
    ends = torch.full_like(places, torch.iinfo(places.dtype).max)
    for index, segment in enumerate(segments):
        if segment.parents is not None:
            depth, count = len(segment.ancestors), len(segment.parents)
            place, end = [depth] * count, list(range(1, count + 1))
            for at, parent in enumerate(segment.parents):
                place[at] = depth if parent < 0 else place[parent] + 1
            for at in range(count - 1, 0, -1):
                if (parent := segment.parents[at]) >= 0:
                    end[parent] = max(end[parent], end[at])
            places[index, depth : depth + count] = torch.tensor(place)
            ends[index, depth : depth + count] = torch.tensor(end) + depth
    return Forks(places.to(device), ends.to(device))


class Step(Protocol):
    """A pass that keeps its keys and values in a way of its own."""

    tokens: Tensor
    positions: Tensor

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
        """As the function attend, for this pass."""


@torch.inference_mode()
def run_pass(decoder: Any, plan: Pass | Step) -> Tensor:
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


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_pass: Pass | Step | None = None,
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
    if not isinstance(packed_pass, Pass):
        return packed_pass.attend(
            module.layer_idx, query, key, value, scaling, sliding_window, softcap, s_aux
        ), None
    plan, layer = packed_pass, module.layer_idx
    keys, values = plan.own.append(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    heads, size = query.shape[1], query.shape[3]
    scale = scaling if scaling is not None else size**-0.5
    asked = (query[0].transpose(0, 1) * scale)[plan.queries]
    prefix = plan.prefix.layers.get(layer)

    segments, longest = plan.queries.shape
    width = plan.prefix.tokens + plan.keys.shape[1]
    out = torch.empty(
        segments, longest, heads, value.shape[3], dtype=value.dtype, device=value.device
    )
    # Whole segments while they are small, single segments in blocks of queries when they are long.
    many = max(1, SCORES_AT_ONCE // (heads * width * longest))
    block = longest if many > 1 else max(1, SCORES_AT_ONCE // (heads * width))
    for top in range(0, segments, many):
        rows = slice(top, top + many)
        for start in range(0, longest, block):
            piece = slice(start, start + block)
            # No query of this block sees a key behind its end.
            reach = min(plan.keys.shape[1], int(plan.depths[rows].max()) + piece.stop)
            index = plan.keys[rows, :reach]
            own = keys[index], values[index]
            hidden = plan.masks(sliding_window, rows, piece, reach)
            fused = block < longest and softcap is None and s_aux is None
            out[rows, piece] = (
                attend_fused(asked[rows, piece], prefix, own, hidden)
                if fused
                else attend_block(asked[rows, piece], prefix, own, hidden, softcap, s_aux)
            )
    return out[plan.filled][None], None


def attend_fused(
    asked: Tensor, prefix: KeyValue | None, own: KeyValue, hidden: tuple[Tensor | None, Tensor]
) -> Tensor:
    """The same as attend_block by torch's fused kernel, which is faster once keys are many and
    segments few.
    """
    group = asked.shape[2] // own[0].shape[2]
    if prefix is not None:
        first, second = (
            torch.cat((a.expand(len(asked), -1, -1, -1), b), dim=1)
            for a, b in zip(prefix, own, strict=True)
        )
        own = first, second
    keys, values = (side.transpose(1, 2).repeat_interleave(group, dim=1) for side in own)
    prefix_hidden, own_hidden = hidden
    seen = ~own_hidden.expand(len(asked), asked.shape[1], -1)
    if prefix is not None:
        before = (
            seen.new_ones(*seen.shape[:2], prefix[0].shape[0])
            if prefix_hidden is None
            else ~prefix_hidden
        )
        seen = torch.cat((before, seen), dim=2)
    out = torch.nn.functional.scaled_dot_product_attention(
        asked.transpose(1, 2), keys, values, attn_mask=seen[:, None], scale=1.0
    )
    return out.transpose(1, 2)


def attend_block(
    asked: Tensor,
    prefix: KeyValue | None,
    own: KeyValue,
    hidden: tuple[Tensor | None, Tensor],
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """``asked`` [segments, queries, heads, size] over the prefix's and the segments' own keys;
    softmax in float32.
    """
    segments, count, heads, size = asked.shape
    kv_heads = own[0].shape[2]
    shape = kv_heads, segments, count, heads // kv_heads
    # [kv heads, segments, queries x group, size]: one product per key-value head serves all its
    # query heads.
    q = (
        asked.view(segments, count, kv_heads, -1, size)
        .permute(2, 0, 1, 3, 4)
        .reshape(kv_heads, segments, -1, size)
    )
    own_keys, own_values = (side.permute(2, 0, 1, 3) for side in own)
    parts = [_mask(q @ own_keys.transpose(2, 3), hidden[1], shape, softcap)]
    if prefix is not None:
        parts.append(
            _mask(
                q.reshape(kv_heads, -1, size) @ prefix[0].permute(1, 2, 0),
                hidden[0],
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
    if prefix is not None:
        weights = parts[1].to(own_values.dtype).view(kv_heads, out.shape[1] * out.shape[2], -1)
        out += (weights @ prefix[1].transpose(0, 1)).view(out.shape)
    out = out.view(*shape, -1) / total.to(out.dtype)
    return out.permute(1, 2, 0, 3, 4).reshape(segments, count, heads, -1)


def _mask(
    scores: Tensor, hidden: Tensor | None, shape: tuple[int, int, int, int], softcap: float | None
) -> Tensor:
    scores = scores.float().view(*shape, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return (
        scores if hidden is None else scores.masked_fill_(hidden[None, :, :, None, :], -torch.inf)
    )
