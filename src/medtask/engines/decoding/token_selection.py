"""The next token of every draft, chosen from logits in numpy: for engines that show them there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtask.engines.decoding.constraints import compute_allowed_tokens
from medtask.engines.decoding.sequence import DecodingSequence


def advance_sequences(seqs: Sequence[DecodingSequence], logits: NDArray[np.float32]) -> None:
    """Let every draft take its next token by its row of logits [drafts, vocabulary].

    The drafts are written by the same limits: all of them are held to a constraint, or none is.
    """
    constraints = [seq.constraint for seq in seqs if seq.constraint]
    allowed = (
        np.where(compute_allowed_tokens(constraints, logits.shape[1]), logits, -np.inf)
        if constraints
        else logits
    )
    for seq, row, own in zip(seqs, allowed, logits, strict=True):
        token = int(row.argmax()) if seq.is_greedy else seq.sample_token(row)
        seq.append_token(token, _compute_logprob(own, token))


def _compute_logprob(logits: NDArray[np.float32], token: int) -> float:
    """Log-probability of one token over the whole vocabulary, whatever was allowed; NaN where no
    number of the row can be used.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        return float("nan")
    return float(logits[token] - peak) - float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
