"""Text generation with mlx-lm, in batches that finish before the next one starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from medtask.engines.decoding.scheduler import StepOutput
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import NumpyLogits
from medtask.engines.mlx.model_runner import (
    MAX_BATCH_ROWS,
    LayerCaches,
    MlxModelRunner,
    fits_into_pass,
)
from medtask.errors import EngineError


class MlxDecodingBackend:
    """Implements scheduler.DecodingBackend; each row may get ``max_tokens`` tokens."""

    refill_fraction = 1.0  # rows cannot be added to a running batch of caches
    keeps_rows_after_failure = False

    def __init__(self, runner: MlxModelRunner, prefix_length: int, max_tokens: int) -> None:
        self.max_running = MAX_BATCH_ROWS if runner.batched else 1
        self._runner = runner
        self._prefix_length = prefix_length
        self._max_tokens = max_tokens
        self._rows: list[DecodingSequence] = []
        self._caches: LayerCaches = []

    def can_admit(self, admitted: Sequence[DecodingSequence], seq: DecodingSequence) -> bool:
        return fits_into_pass(
            len(admitted) + 1, admitted[0].prompt_length, self._prefix_length, self._max_tokens
        )

    def step(self, admitted: Sequence[DecodingSequence]) -> StepOutput:
        """Read the admitted rows; without any, one token of each running row."""
        if not admitted:
            logits = self._runner.decode_step(self._caches, [seq.tokens[-1] for seq in self._rows])
            return StepOutput(list(self._rows), [1] * len(self._rows), NumpyLogits(logits))
        self._rows = list(admitted)
        for seq in admitted:
            seq.tokens_reused += self._prefix_length
        self._caches, found = self._runner.prefill_rows(
            [tuple(seq.tokens) for seq in admitted], [1] * len(admitted)
        )
        read = [seq.prompt_length - self._prefix_length for seq in admitted]
        return StepOutput(list(admitted), read, NumpyLogits(np.concatenate(found)))

    def release(self, seqs: Sequence[DecodingSequence]) -> None:
        dropped = set(map(id, seqs))
        left = [index for index, seq in enumerate(self._rows) if id(seq) not in dropped]
        if len(left) == len(self._rows):
            return
        if left:
            for cache in self._caches:
                cache.filter(left)
        else:
            self._caches = []
        self._rows = [self._rows[index] for index in left]

    def translate_errors(self) -> contextlib.AbstractContextManager[None]:
        return translate_errors()


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Convert errors of mlx to EngineError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise EngineError(
            f"the model failed on a batch ({type(error).__name__})",
            fix="close other programs, or take a smaller or a quantised model",
        ) from error
