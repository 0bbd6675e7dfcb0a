"""Rows on their way through the slots: which pass comes next, and what it costs each row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from medtask.engines.hf.pack import KeyValues, Segment, lay_out, run_pass
from medtask.engines.hf.reader import Reader
from medtask.engines.hf.slots import Slots, TokenStep
from medtask.engines.hf.step import go_on
from medtask.engines.writing.begin import find_prefix
from medtask.engines.writing.draft import Draft

# rows wait until one slot in so many is free: a pass for a single row costs almost as much as one
# for many
REFILL = 8


class Desk:
    """``live[i]`` is written in slot i; ``waiting`` drafts have no slot yet, or lost it.
    ``budget``: tokens of one pass.
    """

    def __init__(self, reader: Reader, drafts: Sequence[Draft], rows: int, budget: int) -> None:
        self.reader = reader
        self.rows = rows
        self.budget = budget
        self.live: list[Draft] = []
        self.waiting = deque(_order(drafts))
        self._shared = len(find_prefix(drafts))
        self._prefix = KeyValues()
        self._opening: list[Draft] = []
        self._slots = Slots(rows)

    @torch.inference_mode()
    def advance(self) -> None:
        """One forward pass: over drafts that wait, where enough slots are free for them, else over
        a token of every live one.
        """
        start = time.perf_counter()
        self._opening = self._next_waiting()
        if self._opening:
            for draft in self._opening:
                draft.start()
            hidden, read = self._read_waiting(self._opening)
            moved, self._opening = self._opening, []
            self.live += moved
        else:
            moved, read = self.live, [1] * len(self.live)
            last = [draft.tokens[-1] for draft in moved]
            hidden = run_pass(
                self.reader.decoder, TokenStep(last, self._slots, self._prefix, self.reader.device)
            )
        go_on(moved, self.reader.head.read_logits(hidden))
        ms_per_token = (time.perf_counter() - start) * 1000 / sum(read)
        for draft, tokens in zip(moved, read, strict=True):
            draft.read += tokens
            draft.ms += tokens * ms_per_token

    @torch.inference_mode()
    def clear_done(self) -> list[Draft]:
        """The drafts that are done; their slots are free."""
        done = [draft for draft in self.live if draft.done]
        if len(done) == len(self.live):
            self.live, self._slots = [], Slots(self.rows)
            return done
        for slot in reversed(range(len(self.live))):
            if self.live[slot].done:
                self._slots.release(slot)
                self.live[slot] = self.live[-1]
                self.live.pop()
        return done

    def clear_half(self) -> Draft | None:
        """After memory ran out: every draft waits again, with what it has, for half as many slots.
        One that was alone is given up.
        """
        rows = [*self.live, *self._opening]
        self.live, self._opening = [], []
        alone = rows[0] if len(rows) == 1 else None
        if alone is None:
            self.rows = max(1, min(self.rows, len(rows)) // 2)
            self.waiting.extendleft(reversed(rows))
        self._slots = Slots(self.rows)
        return alone

    def _next_waiting(self) -> list[Draft]:
        free = self.rows - len(self.live)
        if self.live and free * REFILL < self.rows:
            return []
        chosen: list[Draft] = []
        tokens = 0
        while self.waiting and len(chosen) < free:
            tokens += len(self.waiting[0].tokens) - self._shared
            if chosen and tokens > self.budget:
                break
            chosen.append(self.waiting.popleft())
        return chosen

    def _read_waiting(self, drafts: Sequence[Draft]) -> tuple[Tensor, list[int]]:
        """Put drafts into slots: their last hidden states [drafts, hidden size], and the tokens
        read for each.
        """
        fresh = self.reader.keep_prefix(tuple(drafts[0].tokens[: self._shared]))
        self._prefix = (
            self.reader.prefix
        )  # ours, whatever else the reader is asked before the last draft is done
        store = KeyValues()
        stems, stem_reads = self._read_stems(drafts, store)
        own = [
            draft.tokens[self._shared + len(stem) :]
            for draft, stem in zip(drafts, stems, strict=True)
        ]
        segments = [Segment(tokens, stem) for tokens, stem in zip(own, stems, strict=True)]
        plan = lay_out(segments, self._prefix, store, self.reader.device)
        hidden = run_pass(self.reader.decoder, plan)[plan.last]
        self._slots.admit(
            [[*stem, *plan.token_indices(row)] for row, stem in enumerate(stems)], store
        )
        read = [len(tokens) + more for tokens, more in zip(own, stem_reads, strict=True)]
        read[0] += fresh  # the row for which the prefix was read pays for it
        for draft, tokens in zip(drafts, read, strict=True):
            draft.reused += max(0, len(draft.tokens) - tokens)
        return hidden, read

    def _read_stems(
        self, drafts: Sequence[Draft], store: KeyValues
    ) -> tuple[list[list[int]], list[int]]:
        """What drafts of one group share beyond the prefix, read once: per draft its tokens'
        indices, and how many it pays for.
        """
        groups: dict[Hashable, list[int]] = {}
        for row, draft in enumerate(drafts):
            groups.setdefault(draft.group, []).append(row)
        shared = {
            group: len(find_prefix([drafts[row] for row in rows]))
            for group, rows in groups.items()
            if len(rows) > 1
        }
        longer = {group: groups[group] for group, tokens in shared.items() if tokens > self._shared}
        stems: list[list[int]] = [[] for _ in drafts]
        paid = [0] * len(drafts)
        if not longer:
            return stems, paid
        segments = [
            Segment(drafts[rows[0]].tokens[self._shared : shared[group]])
            for group, rows in longer.items()
        ]
        plan = lay_out(segments, self._prefix, store, self.reader.device)
        run_pass(self.reader.decoder, plan)
        for number, rows in enumerate(longer.values()):
            paid[rows[0]] = len(segments[number].tokens)
            for row in rows:
                stems[row] = plan.token_indices(number)
        return stems, paid


def measure_token(reader: Reader) -> int:
    """Bytes of one token's keys and values, seen in a pass: layers may differ, and share."""
    store = KeyValues()
    run_pass(reader.decoder, lay_out([Segment((0,))], KeyValues(), store, reader.device))
    return sum(side.nbytes for sides in store.layers.values() for side in sides)


def _order(drafts: Sequence[Draft]) -> list[Draft]:
    """Groups together, and the longest first in both: memory runs out at the start or not at
    all.
    """
    groups: dict[Hashable, list[Draft]] = {}
    for draft in sorted(drafts, key=lambda draft: -len(draft.tokens)):
        groups.setdefault(draft.group, []).append(draft)
    return [draft for group in groups.values() for draft in group]
