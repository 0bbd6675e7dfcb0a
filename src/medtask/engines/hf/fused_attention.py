"""Attention by torch's fused kernels, which also return the log-sum-exp of the scores.

The log-sum-exp allows to compute attention over two sets of keys separately and to merge the
results: the shared prefix for all tokens of a pass at once, and each segment's own keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medtask.engines.hf.attention import AttentionCall, KvPair


class PartialAttention(NamedTuple):
    """Attention over some of the keys: the ``output`` [tokens, key-value heads, group, head size]
    and the ``logsumexp`` of the scores [tokens, key-value heads, group].
    """

    output: Tensor
    logsumexp: Tensor


def can_fuse(call: AttentionCall) -> bool:
    """Whether the kernels compute this call: on CUDA they need 16-bit numbers."""
    dtypes = {
        "cpu": (torch.float32, torch.bfloat16),
        "cuda": (torch.float16, torch.bfloat16),
    }.get(call.query.device.type, ())
    return call.is_plain and call.query.dtype in dtypes and call.key.shape[3] == call.value.shape[3]


def attend_prefix(call: AttentionCall, prefix_pair: KvPair) -> PartialAttention:
    """Attention of all tokens to all keys of the prefix."""
    if call.query.device.type == "cuda":
        return _attend_variable_length(
            call, prefix_pair, [call.query.shape[2]], [len(prefix_pair[0])]
        )
    queries = _group_heads(call)
    group = queries.shape[1]
    # Views: the kernel reads keys in any layout, and the keys of a group with stride 0.
    keys, values = (side.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for side in prefix_pair)
    output, logsumexp = _call_cpu_kernel(queries, keys, values, call.scale)
    return PartialAttention(output.permute(2, 0, 1, 3), logsumexp.permute(2, 0, 1))


def attend_segments(call: AttentionCall, lengths: Sequence[int]) -> PartialAttention:
    """Causal attention of each segment to itself; ``lengths`` are the segments' token counts.

    On CPUs, adjacent segments of equal length are one call, without padding, copies of indices, or
    masks. Packs are sorted by length.
    """
    if call.query.device.type == "cuda":
        own_pair = call.key[0].transpose(0, 1), call.value[0].transpose(0, 1)
        return _attend_variable_length(call, own_pair, lengths, lengths)
    queries = _group_heads(call)
    kv_heads, group, tokens, size = queries.shape
    sides = (
        call.query[0],
        *(side[0].repeat_interleave(group, dim=0) for side in (call.key, call.value)),
    )
    output = queries.new_empty(tokens, kv_heads * group, size)
    logsumexp = queries.new_empty(tokens, kv_heads * group, dtype=torch.float32)
    start = 0
    for length, run in itertools.groupby(lengths):
        rows = len(list(run))
        place = slice(start, start + rows * length)
        run_queries, run_keys, run_values = (
            side[:, place].unflatten(1, (rows, length)).transpose(0, 1) for side in sides
        )
        found = _call_cpu_kernel(run_queries, run_keys, run_values, call.scale, causal=True)
        for whole, part in zip((output, logsumexp), found, strict=True):
            whole[place] = part.transpose(1, 2).flatten(0, 1)
        start = place.stop
    return PartialAttention(
        output.unflatten(1, (kv_heads, group)), logsumexp.unflatten(1, (kv_heads, group))
    )


def attend_masked(queries: Tensor, pair: KvPair, bias: Tensor, scale: float) -> PartialAttention:
    """Attention of padded segments to their own keys, on CPUs.

    Args:
        queries: [segments, queries, heads, head size].
        pair: Keys and values, [segments, keys, key-value heads, head size].
        bias: Added to the scores, [segments, queries, keys]; -inf where a query must not attend.
        scale: Factor of the scores.

    Returns:
        PartialAttention with the dimensions [segments, queries] in place of [tokens].
    """
    segments, count, heads, size = queries.shape
    keys, values = (side.transpose(1, 2) for side in pair)
    group = heads // keys.shape[1]
    # The query heads of a key-value head are read as further queries, so that keys, which are
    # larger here, are not copied for each of them.
    output, logsumexp = _call_cpu_kernel(
        queries.view(segments, count, -1, group, size)
        .permute(0, 2, 3, 1, 4)
        .reshape(segments, -1, group * count, size),
        keys,
        values,
        scale,
        bias=bias.repeat(1, group, 1)[:, None],
    )
    return PartialAttention(
        output.unflatten(2, (group, count)).permute(0, 3, 1, 2, 4),
        logsumexp.unflatten(2, (group, count)).permute(0, 3, 1, 2),
    )


def merge(first: PartialAttention, second: PartialAttention) -> Tensor:
    """Attention over the keys of both [tokens, key-value heads, group, head size]."""
    weights = torch.sigmoid(second.logsumexp - first.logsumexp).to(first.output.dtype)
    return torch.lerp(first.output, second.output, weights[..., None])


def _group_heads(call: AttentionCall) -> Tensor:
    """The queries [key-value heads, group, tokens, head size]."""
    return call.query[0].unflatten(0, (call.key.shape[1], -1))


def _call_cpu_kernel(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    *,
    causal: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of [batch, heads, tokens, head size]."""
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, 0.0, causal, attn_mask=bias, scale=scale
    )
    return output, logsumexp


def _attend_variable_length(
    call: AttentionCall, pair: KvPair, query_lengths: Sequence[int], key_lengths: Sequence[int]
) -> PartialAttention:
    """Attention of sequences, end to end, on CUDA: causal if each attends to itself."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    query_starts, key_starts = (
        torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(call.query.device)
        for lengths in (query_lengths, key_lengths)
    )
    keys, values = pair
    kv_heads = call.key.shape[1]
    output, logsumexp = varlen_attn(
        call.query[0].transpose(0, 1),
        keys,
        values,
        query_starts,
        key_starts,
        max(query_lengths),
        max(key_lengths),
        return_aux=AuxRequest(lse=True),
        scale=call.scale,
        window_size=(-1, 0) if query_lengths is key_lengths else (-1, -1),
        enable_gqa=True,
    )
    # The kernel returns [heads, tokens], although its documentation says otherwise.
    return PartialAttention(
        output.unflatten(1, (kv_heads, -1)), logsumexp.T.unflatten(1, (kv_heads, -1))
    )
