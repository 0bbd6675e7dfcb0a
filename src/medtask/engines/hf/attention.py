"""Attention of one layer, as transformers calls it, and the kernels that compute it.

The function is registered with transformers under ATTENTION. The running pass is an argument of the
model's forward call and computes the attention: it stores the keys and values itself, which avoids
the copies of a Cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from medtask.errors import EngineError

ATTENTION = "medtask_packed"

KvPair = tuple[Tensor, Tensor]
# True where a query must not attend: to the prefix (None: it attends to all of it), and to its own
# keys. Both broadcast to [segments, queries, keys].
MaskPair = tuple[Tensor | None, Tensor]


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One layer's call of its attention.

    Attributes:
        layer: Index of the layer.
        query: [1, heads, tokens, head size], not scaled.
        key: [1, key-value heads, tokens, head size].
        value: [1, key-value heads, tokens, head size].
        scale: Factor of the scores.
        window: Number of tokens that a query attends to, itself included; None for no limit.
        softcap: Limit of soft-capped scores (Gemma 2).
        sinks: Attention sinks, one for each head (GPT-OSS).
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the fused kernel can compute it."""
        return self.softcap is None and self.sinks is None


class AttentionPass(Protocol):
    """A forward pass over tokens that computes its own attention.

    ``tokens`` and ``positions``: [tokens].
    """

    tokens: Tensor
    positions: Tensor

    def compute_attention(self, call: AttentionCall) -> Tensor:
        """Attention of one layer, [1, tokens, heads, head size]."""


@torch.inference_mode()
def run_forward_pass(decoder: Any, forward_pass: AttentionPass) -> Tensor:
    """Read a pass's tokens; returns the decoder's last hidden states, [tokens, hidden size]."""
    out = decoder(
        input_ids=forward_pass.tokens[None],
        position_ids=forward_pass.positions[None],
        use_cache=False,
        packed_pass=forward_pass,
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def compute_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; delegates to the running pass."""
    forward_pass: AttentionPass | None = options.get("packed_pass")
    if forward_pass is None:
        raise EngineError(
            "this model does not pass keyword arguments on to its attention",
            fix="report the model's name",
        )
    scaling = options.get("scaling")
    call = AttentionCall(
        layer=module.layer_idx,
        query=query,
        key=key,
        value=value,
        scale=query.shape[3] ** -0.5 if scaling is None else scaling,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    return forward_pass.compute_attention(call), None


def compute_attention_fused(
    queries: Tensor, prefix_pair: KvPair | None, own_pair: KvPair, masked: MaskPair
) -> Tensor:
    """Like compute_attention_eager, with torch's fused kernel: faster for many keys and few
    segments. The kernel does not support soft-capped scores or sinks.
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
    masked: MaskPair,
    call: AttentionCall,
) -> Tensor:
    """Attention over the keys of the prefix and of the segments, with softmax in float32.

    Args:
        queries: Scaled queries, [segments, queries, heads, head size].
        prefix_pair: Keys and values of the prefix, None without one.
        own_pair: Keys and values of the segments, [segments, keys, key-value heads, head size].
        masked: Masks of the prefix and of the segments' own keys.
        call: The attention call; its ``softcap`` and ``sinks`` are used.

    Returns:
        [segments, queries, heads, head size].
    """
    softcap, sinks = call.softcap, call.sinks
    segments, count, heads, size = queries.shape
    kv_heads = own_pair[0].shape[2]
    shape = kv_heads, segments, count, heads // kv_heads
    # [kv heads, segments, queries x group, size]: one product per key-value head for all its query
    # heads.
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
    # A sink has a weight but no value (GPT-OSS).
    sink = None if sinks is None else sinks.float().view(kv_heads, 1, 1, -1, 1)

    # One softmax over both parts, in place: concatenating them would copy the widest tensor twice.
    # The maximum is detached for training: a softmax does not depend on the value subtracted, and
    # amax would keep a tensor that is changed in place.
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
