"""Rows on their way through the slots: which pass comes next, and what it costs each row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from medtask.engines.decoding.preparation import find_common_prefix
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.hf.attention import run_forward_pass
from medtask.engines.hf.kv_slots import DecodePass, KvSlots
from medtask.engines.hf.model_runner import HfModelRunner
from medtask.engines.hf.packed_attention import KvCache, Segment, build_pass
from medtask.engines.hf.token_selection import advance_sequences_torch

# rows wait until one slot in so many is free: a pass for a single row costs almost as much as one
# for many
REFILL_DIVISOR = 8


class HfScheduler:
    """``live[i]`` is written in slot i; ``waiting`` drafts have no slot yet, or lost it.
    ``budget_tokens``: tokens of one pass.
    """

    def __init__(
        self,
        runner: HfModelRunner,
        seqs: Sequence[DecodingSequence],
        max_running: int,
        budget_tokens: int,
    ) -> None:
        self.reader = runner
        self.rows = max_running
        self.budget = budget_tokens
        self.running: list[DecodingSequence] = []
        self.waiting = deque(_order_by_group(seqs))
        self._prefix_length = len(find_common_prefix(seqs))
        self._prefix_cache = KvCache()
        self._prefilling: list[DecodingSequence] = []
        self._slots = KvSlots(max_running)

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass: over drafts that wait, where enough slots are free for them, else over
        a token of every live one.
        """
        start = time.perf_counter()
        self._prefilling = self._select_waiting()
        if self._prefilling:
            for seq in self._prefilling:
                seq.start_timer()
            hidden, read_counts = self._prefill(self._prefilling)
            advanced, self._prefilling = self._prefilling, []
            self.running += advanced
        else:
            advanced, read_counts = self.running, [1] * len(self.running)
            last = [seq.tokens[-1] for seq in advanced]
            hidden = run_forward_pass(
                self.reader.decoder,
                DecodePass(last, self._slots, self._prefix_cache, self.reader.device),
            )
        advance_sequences_torch(advanced, self.reader.head.compute_logits(hidden))
        ms_per_token = (time.perf_counter() - start) * 1000 / sum(read_counts)
        for seq, tokens in zip(advanced, read_counts, strict=True):
            seq.tokens_read += tokens
            seq.ms += tokens * ms_per_token

    @torch.inference_mode()
    def pop_finished(self) -> list[DecodingSequence]:
        """The drafts that are done; their slots are free."""
        finished = [seq for seq in self.running if seq.is_finished]
        if len(finished) == len(self.running):
            self.running, self._slots = [], KvSlots(self.rows)
            return finished
        for slot in reversed(range(len(self.running))):
            if self.running[slot].is_finished:
                self._slots.release(slot)
                self.running[slot] = self.running[-1]
                self.running.pop()
        return finished

    def preempt_all(self) -> DecodingSequence | None:
        """After memory ran out: every draft waits again, with what it has, for half as many slots.
        One that was alone is given up.
        """
        rows = [*self.running, *self._prefilling]
        self.running, self._prefilling = [], []
        alone = rows[0] if len(rows) == 1 else None
        if alone is None:
            self.rows = max(1, min(self.rows, len(rows)) // 2)
            self.waiting.extendleft(reversed(rows))
        self._slots = KvSlots(self.rows)
        return alone

    def _select_waiting(self) -> list[DecodingSequence]:
        free = self.rows - len(self.running)
        if self.running and free * REFILL_DIVISOR < self.rows:
            return []
        chosen: list[DecodingSequence] = []
        tokens = 0
        while self.waiting and len(chosen) < free:
            tokens += len(self.waiting[0].tokens) - self._prefix_length
            if chosen and tokens > self.budget:
                break
            chosen.append(self.waiting.popleft())
        return chosen

    def _prefill(self, seqs: Sequence[DecodingSequence]) -> tuple[Tensor, list[int]]:
        """Put drafts into slots: their last hidden states [drafts, hidden size], and the tokens
        read for each.
        """
        prefix_tokens_read = self.reader.cache_prefix(tuple(seqs[0].tokens[: self._prefix_length]))
        self._prefix_cache = (
            self.reader.prefix_cache
        )  # ours, whatever else the reader is asked before the last draft is done
        cache = KvCache()
        group_prefixes, group_prefix_reads = self._prefill_group_prefixes(seqs, cache)
        own = [
            seq.tokens[self._prefix_length + len(stem) :]
            for seq, stem in zip(seqs, group_prefixes, strict=True)
        ]
        segments = [Segment(tokens, stem) for tokens, stem in zip(own, group_prefixes, strict=True)]
        plan = build_pass(segments, self._prefix_cache, cache, self.reader.device)
        hidden = run_forward_pass(self.reader.decoder, plan)[plan.last_indices]
        self._slots.admit(
            [[*stem, *plan.token_indices(row)] for row, stem in enumerate(group_prefixes)], cache
        )
        read = [len(tokens) + more for tokens, more in zip(own, group_prefix_reads, strict=True)]
        read[0] += prefix_tokens_read  # the row for which the prefix was read pays for it
        for seq, tokens in zip(seqs, read, strict=True):
            seq.tokens_reused += max(0, len(seq.tokens) - tokens)
        return hidden, read

    def _prefill_group_prefixes(
        self, seqs: Sequence[DecodingSequence], cache: KvCache
    ) -> tuple[list[list[int]], list[int]]:
        """What drafts of one group share beyond the prefix, read once: per draft its tokens'
        indices, and how many it pays for.
        """
        groups: dict[Hashable, list[int]] = {}
        for row, seq in enumerate(seqs):
            groups.setdefault(seq.group_key, []).append(row)
        shared = {
            group: len(find_common_prefix([seqs[row] for row in rows]))
            for group, rows in groups.items()
            if len(rows) > 1
        }
        longer = {
            group: groups[group] for group, tokens in shared.items() if tokens > self._prefix_length
        }
        group_prefixes: list[list[int]] = [[] for _ in seqs]
        read_counts = [0] * len(seqs)
        if not longer:
            return group_prefixes, read_counts
        segments = [
            Segment(seqs[rows[0]].tokens[self._prefix_length : shared[group]])
            for group, rows in longer.items()
        ]
        plan = build_pass(segments, self._prefix_cache, cache, self.reader.device)
        run_forward_pass(self.reader.decoder, plan)
        for number, rows in enumerate(longer.values()):
            read_counts[rows[0]] = len(segments[number].tokens)
            for row in rows:
                group_prefixes[row] = plan.token_indices(number)
        return group_prefixes, read_counts


def measure_token_bytes(runner: HfModelRunner) -> int:
    """Bytes of one token's keys and values, seen in a pass: layers may differ, and share."""
    cache = KvCache()
    run_forward_pass(runner.decoder, build_pass([Segment((0,))], KvCache(), cache, runner.device))
    return sum(side.nbytes for sides in cache.layers.values() for side in sides)


def _order_by_group(seqs: Sequence[DecodingSequence]) -> list[DecodingSequence]:
    """Groups together, and the longest first in both: memory runs out at the start or not at
    all.
    """
    groups: dict[Hashable, list[DecodingSequence]] = {}
    for seq in sorted(seqs, key=lambda seq: -len(seq.tokens)):
        groups.setdefault(seq.group_key, []).append(seq)
    return [seq for group in groups.values() for seq in group]
