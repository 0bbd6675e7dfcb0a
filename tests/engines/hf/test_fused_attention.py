"""Partial attentions by the fused kernels, merged, equal one softmax over all keys."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch
from torch import Tensor

from medtask.engines.hf.attention import AttentionCall, KvPair
from medtask.engines.hf.fused_attention import (
    attend_masked,
    attend_prefix,
    attend_segments,
    can_fuse,
    merge,
)

SCALE = 0.2
HEADS, KV_HEADS, SIZE = 6, 2, 16
LENGTHS = [7, 6, 6, 3, 1]


def make_sides(dtype: torch.dtype, device: str = "cpu") -> tuple[AttentionCall, KvPair]:
    """A call for segments of LENGTHS tokens, laid out as transformers does, and a prefix."""
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(1, sum(LENGTHS), heads, SIZE, generator=generator)
        .to(device, dtype)
        .transpose(1, 2)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    prefix_keys, prefix_values = (
        torch.randn(11, KV_HEADS, SIZE, generator=generator).to(device, dtype) for _ in range(2)
    )
    return AttentionCall(0, query, key, value, SCALE), (prefix_keys, prefix_values)


def attend_by_softmax(call: AttentionCall, prefix: KvPair) -> Tensor:
    """[tokens, heads, head size], token by token in float64."""
    query, key, value = (side[0].double().cpu() for side in (call.query, call.key, call.value))
    before = [side.double().cpu().transpose(0, 1) for side in prefix]
    rows = []
    starts = itertools.accumulate(LENGTHS, initial=0)
    for start, length in zip(starts, LENGTHS, strict=False):
        for token in range(start, start + length):
            keys = torch.cat((before[0], key[:, start : token + 1]), dim=1)
            values = torch.cat((before[1], value[:, start : token + 1]), dim=1)
            keys, values = (
                side.repeat_interleave(HEADS // KV_HEADS, dim=0) for side in (keys, values)
            )
            weights = torch.softmax((keys @ query[:, token, :, None])[..., 0] * SCALE, dim=-1)
            rows.append((weights[:, None] @ values)[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_prefix_and_segments_merged_equal_one_softmax(dtype: torch.dtype, bound: float) -> None:
    call, prefix = make_sides(dtype)
    assert can_fuse(call)
    with torch.inference_mode():
        out = merge(attend_prefix(call, prefix), attend_segments(call, LENGTHS)).flatten(1, 2)
    assert out.dtype == dtype
    assert (out.double() - attend_by_softmax(call, prefix)).abs().max() < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_padded_segments_with_a_mask_equal_segments_without_padding(
    dtype: torch.dtype, bound: float
) -> None:
    call, _ = make_sides(dtype)
    longest = max(LENGTHS)
    step = torch.arange(longest)
    filled = step < torch.tensor(LENGTHS)[:, None]
    index = torch.zeros(filled.shape, dtype=torch.long)
    index[filled] = torch.arange(sum(LENGTHS))
    queries, keys, values = (
        side[0].transpose(0, 1)[index] for side in (call.query, call.key, call.value)
    )
    bias = torch.zeros(longest, longest).masked_fill(step[None, :] > step[:, None], -torch.inf)
    with torch.inference_mode():
        masked = attend_masked(
            queries, (keys, values), bias.expand(len(LENGTHS), -1, -1), call.scale
        )
        own = attend_segments(call, LENGTHS)
    assert (masked.output[filled].double() - own.output.double()).abs().max() < bound
    assert (masked.logsumexp[filled] - own.logsumexp).abs().max() < bound


def test_soft_capped_scores_and_sinks_are_not_fused() -> None:
    call, _ = make_sides(torch.float32)
    for options in ({"softcap": 5.0}, {"sinks": torch.zeros(HEADS)}):
        assert not can_fuse(
            AttentionCall(0, call.query, call.key, call.value, SCALE, None, **options)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_variable_length_attention_on_cuda_equals_one_softmax() -> None:
    call, prefix = make_sides(torch.bfloat16, "cuda")
    assert can_fuse(call)
    with torch.inference_mode():
        out = merge(attend_prefix(call, prefix), attend_segments(call, LENGTHS)).flatten(1, 2)
    assert (out.double().cpu() - attend_by_softmax(call, prefix)).abs().max() < 0.03
