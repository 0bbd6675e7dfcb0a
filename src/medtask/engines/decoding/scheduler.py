"""Schedules text generation: admits, preempts and releases rows of a model backend."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import NextTokenLogits, advance_sequences

SequenceCallback = Callable[[DecodingSequence], None]


class OutOfKvMemoryError(Exception):
    """Not enough memory for the keys and values of all running rows."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One step: its rows, the number of tokens read for each, and the next-token logits."""

    seqs: Sequence[DecodingSequence]
    tokens_read: Sequence[int]
    logits: NextTokenLogits


class DecodingBackend(Protocol):
    """A model with the keys and values of the running rows.

    Attributes:
        max_running: Maximum number of rows that run at once; lowered after an out-of-memory error.
        refill_fraction: Rows are admitted once this fraction of ``max_running`` is free.
        keeps_rows_after_failure: Whether the rows' keys and values survive a failed step; rows that
            it admitted are then read by the next one.
    """

    max_running: int
    refill_fraction: float
    keeps_rows_after_failure: bool

    def can_admit(self, admitted: Sequence[DecodingSequence], seq: DecodingSequence) -> bool:
        """Whether one step can read a waiting row together with those already admitted."""

    def step(self, admitted: Sequence[DecodingSequence]) -> StepOutput:
        """Read the admitted rows, or one token of each running row, or both."""

    def release(self, seqs: Sequence[DecodingSequence]) -> None:
        """Drop the keys and values of rows."""

    def translate_errors(self) -> AbstractContextManager[None]:
        """Convert the model's errors to OutOfKvMemoryError or EngineError."""


class Scheduler:
    """Generates the text of each sequence.

    ``running`` sequences have keys and values in the backend; ``waiting`` ones have none yet, or
    lost them.
    """

    def __init__(self, backend: DecodingBackend, seqs: Sequence[DecodingSequence]) -> None:
        self.backend = backend
        self.waiting = deque(seqs)
        self.running: list[DecodingSequence] = []

    def run(self, on_update: SequenceCallback) -> Iterator[DecodingSequence]:
        """Yield each sequence once it is finished; ``on_update`` is called as each one grows."""
        try:
            while self.waiting or self.running:
                try:
                    self._step()
                except OutOfKvMemoryError:
                    self._preempt()
                for seq in self.running:
                    on_update(seq)
                yield from self._release_finished()
        finally:
            self.backend.release(self.running)

    def _step(self) -> None:
        start = time.perf_counter()
        admitted = self._admit()
        with self.backend.translate_errors():
            output = self.backend.step(admitted)
            advance_sequences(output.seqs, output.logits)
        ms_per_token = (time.perf_counter() - start) * 1000 / sum(output.tokens_read)
        for seq, tokens in zip(output.seqs, output.tokens_read, strict=True):
            seq.tokens_read += tokens
            seq.ms += tokens * ms_per_token

    def _admit(self) -> list[DecodingSequence]:
        free = self.backend.max_running - len(self.running)
        admitted: list[DecodingSequence] = []
        if self.running and free < self.backend.refill_fraction * self.backend.max_running:
            return admitted
        while self.waiting and len(admitted) < free:
            if admitted and not self.backend.can_admit(admitted, self.waiting[0]):
                break
            seq = self.waiting.popleft()
            seq.start_timer()
            admitted.append(seq)
        self.running += admitted
        return admitted

    def _preempt(self) -> None:
        """After an out-of-memory error, move half of the running rows back to the waiting ones with
        the tokens that they have. A row that ran alone fails.
        """
        count = len(self.running)
        if count == 1:
            (seq,) = self.running
            seq.fail(f"out of memory on this row alone ({len(seq.tokens):,} tokens)")
            return
        self.backend.max_running = count // 2
        kept = count // 2 if self.backend.keeps_rows_after_failure else 0
        preempted = self.running[kept:]
        self.backend.release(preempted)
        self.waiting.extendleft(reversed(preempted))
        del self.running[kept:]

    def _release_finished(self) -> list[DecodingSequence]:
        finished = [seq for seq in self.running if seq.is_finished]
        if finished:
            self.backend.release(finished)
            self.running = [seq for seq in self.running if not seq.is_finished]
        return finished
