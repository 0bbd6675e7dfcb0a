"""Selects the next token of each sequence from the model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medtask.engines.decoding.constraints import compute_allowed_tokens
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.tokens.trie import logsumexp


class NextTokenLogits(Protocol):
    """Logits [rows, vocabulary] in the engine's own array type."""

    @property
    def vocabulary_size(self) -> int: ...

    def mask(self, allowed: NDArray[np.bool_]) -> NextTokenLogits:
        """The logits, set to minus infinity where ``allowed`` [rows, vocabulary] is False."""

    def argmax(self) -> list[int]:
        """The most probable token of each row."""

    def to_numpy(self) -> NDArray[np.floating]:
        """The logits [rows, vocabulary]."""

    def compute_logprobs(self, tokens: Sequence[int]) -> list[float]:
        """The log-probability of one token per row, over the whole vocabulary; NaN for a row with
        values that are not finite.
        """


class NumpyLogits:
    """Logits in a numpy array."""

    def __init__(self, logits: NDArray[np.floating]) -> None:
        self.logits = logits

    @property
    def vocabulary_size(self) -> int:
        return int(self.logits.shape[1])

    def mask(self, allowed: NDArray[np.bool_]) -> NumpyLogits:
        return NumpyLogits(np.where(allowed, self.logits, -np.inf))

    def argmax(self) -> list[int]:
        tokens: list[int] = self.logits.argmax(axis=1).tolist()
        return tokens

    def to_numpy(self) -> NDArray[np.floating]:
        return self.logits

    def compute_logprobs(self, tokens: Sequence[int]) -> list[float]:
        return [
            float(row[token]) - logsumexp(row)
            for row, token in zip(self.logits, tokens, strict=True)
        ]


def advance_sequences(seqs: Sequence[DecodingSequence], logits: NextTokenLogits) -> None:
    """Append the next token to each sequence.

    The sequences have the same limits: either all of them have a constraint, or none has.
    """
    constraints = [seq.constraint for seq in seqs if seq.constraint]
    allowed = (
        logits.mask(compute_allowed_tokens(constraints, logits.vocabulary_size))
        if constraints
        else logits
    )
    tokens = (
        allowed.argmax()
        if seqs[0].is_greedy
        else [seq.sample_token(row) for seq, row in zip(seqs, allowed.to_numpy(), strict=True)]
    )
    for seq, token, logprob in zip(seqs, tokens, logits.compute_logprobs(tokens), strict=True):
        seq.append_token(token, logprob)
