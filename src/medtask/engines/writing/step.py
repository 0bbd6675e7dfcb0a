"""The next token of every draft, chosen from logits in numpy: for engines that show them there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtask.engines.writing.constrain import allowed_tokens
from medtask.engines.writing.draft import Draft


def go_on(drafts: Sequence[Draft], logits: NDArray[np.float32]) -> None:
    """Let every draft take its next token by its row of logits [drafts, vocabulary].

    The drafts are written by the same limits: all of them are held to a constraint, or none is.
    """
    constraints = [draft.constraint for draft in drafts if draft.constraint]
    allowed = (
        np.where(allowed_tokens(constraints, logits.shape[1]), logits, -np.inf)
        if constraints
        else logits
    )
    for draft, row, own in zip(drafts, allowed, logits, strict=True):
        token = int(row.argmax()) if draft.greedy else draft.draw(row)
        draft.take(token, _measure_token(own, token))


def _measure_token(logits: NDArray[np.float32], token: int) -> float:
    """Log-probability of one token over the whole vocabulary, whatever was allowed; NaN where no
    number of the row can be used.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        return float("nan")
    return float(logits[token] - peak) - float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
