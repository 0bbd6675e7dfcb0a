"""Writing with llama.cpp: every row in a sequence of its own behind the shared prefix, and in each
batch a token of every one.

Rows that wait are read in the same batches as the next tokens of those that are being written, so
no slot stays empty.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from medtask.engines.decoding.generation import SequenceCallback
from medtask.engines.decoding.preparation import find_common_prefix
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import advance_sequences
from medtask.engines.llamacpp.context import MAX_SEQUENCES, BatchToken, ContextFullError
from medtask.engines.llamacpp.model_runner import PREFIX_SEQUENCE, LlamaCppModelRunner

MAX_RUNNING = 64  # all that callers hand over together
MAX_PREFILL_TOKENS = 2048  # tokens of waiting rows that are read in one batch


def decode_sequences(
    runner: LlamaCppModelRunner,
    seqs: Sequence[DecodingSequence],
    max_tokens: int,
    max_cells: int,
    on_update: SequenceCallback,
) -> Iterator[DecodingSequence]:
    """Write drafts to their ends, as many at a time as ``max_cells`` tokens of keys and values
    have room for.
    """
    if not seqs:
        return
    start = time.perf_counter()
    prefix = find_common_prefix(seqs)
    longest = max(seq.prompt_length for seq in seqs) - len(prefix) + max_tokens
    max_running = max(
        1, min(MAX_RUNNING, MAX_SEQUENCES - 1, len(seqs), (max_cells - len(prefix)) // longest)
    )
    prefix_tokens_read = runner.cache_prefix(prefix, max_running * longest)
    seqs[0].tokens_read += prefix_tokens_read
    seqs[0].ms += (time.perf_counter() - start) * 1000
    scheduler = _LlamaCppScheduler(runner, prefix, seqs, max_running)
    try:
        while scheduler.running or scheduler.waiting:
            scheduler.step()
            for seq in list(scheduler.running.values())[:1]:
                on_update(seq)
            yield from scheduler.pop_finished()
    finally:
        for sequence_id in scheduler.running:
            runner.context.drop_sequence(sequence_id)


class _LlamaCppScheduler:
    """``running``: the drafts that are being written, by sequence; ``waiting``: those that have
    none yet.
    """

    def __init__(
        self,
        runner: LlamaCppModelRunner,
        prefix_length: tuple[int, ...],
        seqs: Sequence[DecodingSequence],
        max_running: int,
    ) -> None:
        self.context = runner.context
        self.prefix = len(prefix_length)
        self.rows = max_running
        self.running: dict[int, DecodingSequence] = {}
        self.waiting = deque(sorted(seqs, key=lambda draft: -draft.prompt_length))
        self._computed_counts: dict[
            int, int
        ] = {}  # by sequence: how many of its tokens the context holds

    def step(self) -> None:
        """One batch: the last token of each live draft, and the prompts of drafts that have just
        got a sequence.
        """
        start = time.perf_counter()
        self._admit_waiting()
        tokens: list[BatchToken] = []
        new_counts: list[int] = []
        for sequence_id, seq in self.running.items():
            computed_count = self._computed_counts[sequence_id]
            new = seq.tokens[computed_count:]
            tokens += [
                BatchToken(token, computed_count + place, (sequence_id,), place == len(new) - 1)
                for place, token in enumerate(new)
            ]
            new_counts.append(len(new))
        try:
            logits = self.context.decode(tokens)
        except ContextFullError:
            self._preempt_half()
            return
        advanced = list(self.running.items())
        for sequence_id, seq in advanced:
            self._computed_counts[sequence_id] = len(seq.tokens)
        advance_sequences([seq for _, seq in advanced], np.ascontiguousarray(logits))
        ms = (time.perf_counter() - start) * 1000 / len(tokens)
        for (_, seq), count in zip(advanced, new_counts, strict=True):
            seq.tokens_read += count
            seq.ms += count * ms

    def pop_finished(self) -> list[DecodingSequence]:
        """The drafts that are done; their sequences are free."""
        finished = [
            (sequence_id, seq) for sequence_id, seq in self.running.items() if seq.is_finished
        ]
        for sequence_id, _ in finished:
            self._release_sequence(sequence_id)
        return [seq for _, seq in finished]

    def _admit_waiting(self) -> None:
        tokens = 0
        free = iter(
            sequence_id
            for sequence_id in range(1, self.rows + 1)
            if sequence_id not in self.running
        )
        for sequence_id in free:
            if not self.waiting or (
                tokens and tokens + len(self.waiting[0].tokens) - self.prefix > MAX_PREFILL_TOKENS
            ):
                return
            seq = self.waiting.popleft()
            seq.start_timer()
            seq.tokens_reused += self.prefix
            tokens += len(seq.tokens) - self.prefix
            self.context.copy_sequence(PREFIX_SEQUENCE, sequence_id)
            self.running[sequence_id] = seq
            self._computed_counts[sequence_id] = self.prefix

    def _preempt_half(self) -> None:
        """Where there is no room for all: half of the rows wait again, with what they have."""
        if len(self.running) == 1:
            ((sequence_id, seq),) = self.running.items()
            seq.fail(
                f"no memory for the keys and values of this row alone ({len(seq.tokens):,} tokens)"
            )
            return
        for sequence_id in list(self.running)[len(self.running) // 2 :]:
            self.waiting.appendleft(self._release_sequence(sequence_id))
        self.rows = len(self.running)

    def _release_sequence(self, sequence_id: int) -> DecodingSequence:
        self.context.drop_sequence(sequence_id)
        del self._computed_counts[sequence_id]
        return self.running.pop(sequence_id)
