"""Key-value cache slots of running rows, and the pass that reads one token of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medtask.engines.hf.attention import (
    AttentionCall,
    KvPair,
    MaskPair,
    compute_attention_eager,
)
from medtask.engines.hf.packed_attention import KvCache
from medtask.hardware import inspect_machine

GROWTH_TOKENS = 64  # minimum number of tokens by which the slots grow
# Keys and values may use one part in this many of the memory left by the model.
KV_MEMORY_DIVISOR = 4


class KvSlots:
    """Keys and values of the rows' own tokens, per layer [key-value heads, slots, capacity, head
    size].

    Rows use slots 0 to len(lengths) - 1, without gaps; ``lengths`` are their token counts. Values
    after a row's end are masked, but must be finite: weight 0 times NaN is NaN.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.lengths: list[int] = []
        self.capacity = 0
        self.layers: dict[int, KvPair] = {}

    def admit(self, rows: Sequence[Sequence[int]], cache: KvCache) -> None:
        """Put rows into the next free slots; a row is the indices of its tokens in ``cache``."""
        first, longest = len(self.lengths), max(map(len, rows))
        self._ensure_capacity(longest)
        device = next(iter(cache.layers.values()))[0].device
        index = torch.tensor(
            [[*row, *row[:1] * (longest - len(row))] for row in map(list, rows)], device=device
        )
        for layer, sides in cache.layers.items():
            if layer not in self.layers:
                keys, values = (
                    side.new_zeros(side.shape[1], self.count, self.capacity, side.shape[2])
                    for side in sides
                )
                self.layers[layer] = keys, values
            for kept, side in zip(self.layers[layer], sides, strict=True):
                kept[:, first : first + len(rows), :longest] = side[index].permute(2, 0, 1, 3)
        self.lengths += map(len, rows)

    def release(self, slot: int) -> None:
        """Free a slot; the row in the last slot moves into it."""
        max_length, last = max(self.lengths), len(self.lengths) - 1
        for sides in self.layers.values():
            for side in sides:
                side[:, slot, :max_length] = side[:, last, :max_length]
                side[:, last, :max_length] = 0
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def extend(self) -> None:
        """Make room for one more token of each row, and count it."""
        self._ensure_capacity(max(self.lengths) + 1)
        self.lengths = [length + 1 for length in self.lengths]

    def _ensure_capacity(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        self.capacity = max(tokens, self.capacity * 3 // 2) + GROWTH_TOKENS
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = self._grow(keys), self._grow(values)

    def _grow(self, side: Tensor) -> Tensor:
        wider = side.new_zeros(side.shape[0], self.count, self.capacity, side.shape[3])
        wider[:, :, : side.shape[2]] = side
        return wider


class DecodePass:
    """A pass that reads one token of each row; a token attends to the prefix and its own row."""

    def __init__(
        self, tokens: Sequence[int], slots: KvSlots, prefix_cache: KvCache, device: torch.device
    ) -> None:
        slots.extend()
        self.slots = slots
        self.prefix = prefix_cache
        self.max_length = max(slots.lengths)
        self.row_indices = torch.arange(len(tokens), device=device)
        self.token_offsets = torch.tensor(slots.lengths, device=device) - 1
        self.tokens = torch.tensor(tokens, device=device)
        self.positions = self.token_offsets + prefix_cache.tokens
        self._masks: dict[int | None, MaskPair] = {}

    def compute_attention(self, call: AttentionCall) -> Tensor:
        """See AttentionPass; stores the call's keys and values in the slots."""
        own = []
        for kept, side in zip(self.slots.layers[call.layer], (call.key, call.value), strict=True):
            kept[:, self.row_indices, self.token_offsets] = side[0]
            own.append(kept[:, : len(self.row_indices), : self.max_length].permute(1, 2, 0, 3))
        queries = call.query[0].transpose(0, 1) * call.scale
        out = compute_attention_eager(
            queries[:, None],
            self.prefix.layers.get(call.layer),
            (own[0], own[1]),
            self._get_masks(call.window),
            call,
        )
        return out.transpose(0, 1)

    def _get_masks(self, window: int | None) -> MaskPair:
        """The masks of the prefix and of the slots [rows, 1, keys], True where not attended to."""
        if window not in self._masks:
            at = self.token_offsets[:, None, None]
            slot = torch.arange(self.max_length, device=at.device)
            masked, prefix_masked = slot > at, None
            if window is not None:
                masked |= at - slot >= window
                if self.prefix.tokens + self.max_length > window:
                    prefix_masked = (
                        at + self.prefix.tokens - torch.arange(self.prefix.tokens, device=at.device)
                        >= window
                    )
            self._masks[window] = prefix_masked, masked
        return self._masks[window]


def measure_kv_budget_bytes(model: Any) -> int:
    """Bytes that the keys and values of rows may use. Derived from the sizes of model and machine,
    not from the free memory, so that runs do not differ.
    """
    machine = inspect_machine(accelerator=model.device.type != "cpu")
    total_bytes = machine.memory_bytes if model.device.type == "cpu" else machine.accelerator_bytes
    return max(0, (total_bytes - int(model.get_memory_footprint())) // KV_MEMORY_DIVISOR)
