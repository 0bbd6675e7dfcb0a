"""The next token of every draft, chosen where the logits are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtask.engines.decoding.constraints import GrammarConstraint, compute_allowed_tokens
from medtask.engines.decoding.sequence import DecodingSequence


@torch.inference_mode()
def advance_sequences_torch(seqs: Sequence[DecodingSequence], logits: Tensor) -> None:
    """Let every draft take its next token by its row of logits [drafts, vocabulary]."""
    constraints = [seq.constraint for seq in seqs if seq.constraint]
    allowed = mask_logits(logits, constraints) if constraints else logits
    if seqs[0].is_greedy:
        tokens = allowed.argmax(dim=-1)
    else:
        rows = allowed.cpu().numpy()
        tokens = torch.tensor(
            [seq.sample_token(row) for seq, row in zip(seqs, rows, strict=True)],
            device=logits.device,
        )
    for seq, token, logprob in zip(
        seqs, tokens.tolist(), compute_logprobs(logits, tokens).tolist(), strict=True
    ):
        seq.append_token(token, logprob)


def mask_logits(logits: Tensor, constraints: Sequence[GrammarConstraint]) -> Tensor:
    """Logits [rows, vocabulary] with minus infinity wherever the row's constraint does not allow
    the token.
    """
    allowed = torch.from_numpy(compute_allowed_tokens(constraints, logits.shape[1]))
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


@torch.inference_mode()
def compute_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [rows] of one token per row, over the whole vocabulary; float32."""
    return logits.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
