"""Text generation with llama.cpp: one sequence per row, one token of each row per batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from medtask.engines.decoding.scheduler import OutOfKvMemoryError, StepOutput
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import NumpyLogits
from medtask.engines.llamacpp.context import (
    MAX_SEQUENCES,
    BatchToken,
    ContextFullError,
    LlamaContext,
)
from medtask.engines.llamacpp.model_runner import PREFIX_SEQUENCE

MAX_PREFILL_TOKENS = 2048  # tokens of admitted rows that are read in one batch


class LlamaCppDecodingBackend:
    """Implements scheduler.DecodingBackend. Admitted rows are read in the batch that reads the next
    token of each running row, so that no sequence is empty.
    """

    refill_fraction = 0.0
    keeps_rows_after_failure = True

    def __init__(self, context: LlamaContext, prefix_length: int, max_running: int) -> None:
        self.max_running = max_running
        self._context = context
        self._prefix_length = prefix_length
        self._rows: dict[int, DecodingSequence] = {}  # by sequence
        self._computed_counts: dict[int, int] = {}  # by sequence: tokens that the context holds

    def can_admit(self, admitted: Sequence[DecodingSequence], seq: DecodingSequence) -> bool:
        tokens = sum(len(one.tokens) - self._prefix_length for one in (*admitted, seq))
        return tokens <= MAX_PREFILL_TOKENS

    def step(self, admitted: Sequence[DecodingSequence]) -> StepOutput:
        """Read the admitted rows and the last token of each other row in one batch."""
        for seq in admitted:
            sequence_id = next(
                number for number in range(1, MAX_SEQUENCES) if number not in self._rows
            )
            self._context.copy_sequence(PREFIX_SEQUENCE, sequence_id)
            self._rows[sequence_id] = seq
            self._computed_counts[sequence_id] = self._prefix_length
            seq.tokens_reused += self._prefix_length
        tokens: list[BatchToken] = []
        new_counts: list[int] = []
        for sequence_id, seq in self._rows.items():
            computed_count = self._computed_counts[sequence_id]
            new = seq.tokens[computed_count:]
            tokens += [
                BatchToken(token, computed_count + index, (sequence_id,), index == len(new) - 1)
                for index, token in enumerate(new)
            ]
            new_counts.append(len(new))
        logits = self._context.decode(tokens)
        for sequence_id, seq in self._rows.items():
            self._computed_counts[sequence_id] = len(seq.tokens)
        return StepOutput(list(self._rows.values()), new_counts, NumpyLogits(logits))

    def release(self, seqs: Sequence[DecodingSequence]) -> None:
        dropped = set(map(id, seqs))
        for sequence_id, seq in list(self._rows.items()):
            if id(seq) in dropped:
                self._context.drop_sequence(sequence_id)
                del self._computed_counts[sequence_id], self._rows[sequence_id]

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        try:
            yield
        except ContextFullError as error:
            raise OutOfKvMemoryError from error
