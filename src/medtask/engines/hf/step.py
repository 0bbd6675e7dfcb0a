"""The next token of every draft, chosen where the logits are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtask.engines.writing.constrain import Constraint, allowed_tokens
from medtask.engines.writing.draft import Draft


@torch.inference_mode()
def go_on(drafts: Sequence[Draft], logits: Tensor) -> None:
    """Let every draft take its next token by its row of logits [drafts, vocabulary]."""
    constraints = [draft.constraint for draft in drafts if draft.constraint]
    allowed = mask_logits(logits, constraints) if constraints else logits
    if drafts[0].greedy:
        tokens = allowed.argmax(dim=-1)
    else:
        rows = allowed.cpu().numpy()
        tokens = torch.tensor(
            [draft.draw(row) for draft, row in zip(drafts, rows, strict=True)], device=logits.device
        )
    for draft, token, logprob in zip(
        drafts, tokens.tolist(), measure_tokens(logits, tokens).tolist(), strict=True
    ):
        draft.take(token, logprob)


def mask_logits(logits: Tensor, constraints: Sequence[Constraint]) -> Tensor:
    """Logits [rows, vocabulary] with minus infinity wherever the row's constraint does not allow
    the token.
    """
    allowed = torch.from_numpy(allowed_tokens(constraints, logits.shape[1]))
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


@torch.inference_mode()
def measure_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [rows] of one token per row, over the whole vocabulary; float32."""
    return logits.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
