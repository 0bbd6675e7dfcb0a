"""Rows that are being written, side by side: their keys and values in place, and one token for each
of them in a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtask.engines.hf.pack import KeyValue, KeyValues, attend_block

ROOM = 64  # tokens by which the slots grow at least


class Slots:
    """Keys and values of the rows' own tokens, per layer [key-value heads, slots, capacity, head
    size].

    Rows stand in slots 0 to len(lengths) - 1, without gaps; ``lengths``: tokens of each. What lies
    behind a row's end is hidden from it and has to be finite all the same: weight 0 times NaN is
    NaN.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.lengths: list[int] = []
        self.capacity = 0
        self.layers: dict[int, KeyValue] = {}

    def admit(self, rows: Sequence[Sequence[int]], read: KeyValues) -> None:
        """Put rows into the next free slots. Each is given by the indices of its tokens in
        ``read``.
        """
        first, longest = len(self.lengths), max(map(len, rows))
        self._make_room(longest)
        device = next(iter(read.layers.values()))[0].device
        index = torch.tensor(
            [[*row, *row[:1] * (longest - len(row))] for row in map(list, rows)], device=device
        )
        for layer, sides in read.layers.items():
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
        """Free a slot; the row of the last one moves into it."""
        reach, last = max(self.lengths), len(self.lengths) - 1
        for sides in self.layers.values():
            for side in sides:
                side[:, slot, :reach] = side[:, last, :reach]
                side[:, last, :reach] = 0
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def lengthen(self) -> None:
        """Make room for one more token of every row, and count it."""
        self._make_room(max(self.lengths) + 1)
        self.lengths = [length + 1 for length in self.lengths]

    def _make_room(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        self.capacity = max(tokens, self.capacity * 3 // 2) + ROOM
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = self._widen(keys), self._widen(values)

    def _widen(self, side: Tensor) -> Tensor:
        wider = side.new_zeros(side.shape[0], self.count, self.capacity, side.shape[3])
        wider[:, :, : side.shape[2]] = side
        return wider


class TokenStep:
    """A pass that reads one token of every row in the slots, each behind its own; it sees the
    prefix and its own row.
    """

    def __init__(
        self, tokens: Sequence[int], slots: Slots, prefix: KeyValues, device: torch.device
    ) -> None:
        slots.lengthen()
        self.slots = slots
        self.prefix = prefix
        self.reach = max(slots.lengths)
        self.rows = torch.arange(len(tokens), device=device)
        self.depths = torch.tensor(slots.lengths, device=device) - 1
        self.tokens = torch.tensor(tokens, device=device)
        self.positions = self.depths + prefix.tokens
        self._masks: dict[int | None, tuple[Tensor | None, Tensor]] = {}

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
        """See pack.attend. Tensors come as [1, heads, rows, head size]."""
        own = []
        for kept, side in zip(self.slots.layers[layer], (key, value), strict=True):
            kept[:, self.rows, self.depths] = side[0]
            own.append(kept[:, : len(self.rows), : self.reach].permute(1, 2, 0, 3))
        asked = query[0].transpose(0, 1) * (
            scaling if scaling is not None else query.shape[3] ** -0.5
        )
        out = attend_block(
            asked[:, None],
            self.prefix.layers.get(layer),
            (own[0], own[1]),
            self._mask(window),
            softcap,
            sinks,
        )
        return out.transpose(0, 1)

    def _mask(self, window: int | None) -> tuple[Tensor | None, Tensor]:
        """What each row may not see of the prefix (None: it sees all of it) and of the slots,
        [rows, 1, keys].
        """
        if window not in self._masks:
            at = self.depths[:, None, None]
            slot = torch.arange(self.reach, device=at.device)
            hidden, prefix_hidden = slot > at, None
            if window is not None:
                hidden |= at - slot >= window
                if self.prefix.tokens + self.reach > window:
                    prefix_hidden = (
                        at + self.prefix.tokens - torch.arange(self.prefix.tokens, device=at.device)
                        >= window
                    )
            self._masks[window] = prefix_hidden, hidden
        return self._masks[window]
