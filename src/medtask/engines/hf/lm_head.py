"""From hidden states to next-token probabilities, over the few tokens that matter or over the whole
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_LOGIT_ELEMENTS = 1 << 24  # elements; a vocabulary of 262,144 tokens times 64 rows


@dataclass(frozen=True, slots=True)
class LmHead:
    """A model's output matrix [vocabulary, hidden size] and what its family does to logits
    afterwards.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    @torch.inference_mode()
    def log_softmax_over(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        """Log-probabilities [rows, tokens] in float64, renormalised over ``tokens``; only their
        rows of the matrix are read.
        """
        index = torch.tensor(tokens, device=self.weight.device)
        bias = None if self.bias is None else self.bias[index].float()
        logits = torch.nn.functional.linear(hidden.float(), self.weight[index].float(), bias)
        return torch.log_softmax(self.scale_logits(logits).double(), dim=-1)

    @torch.inference_mode()
    def compute_off_set(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        """How much of the next token's probability lies outside ``tokens`` [rows]; reads the whole
        vocabulary.
        """
        index = torch.tensor(tokens, device=self.weight.device)
        parts = []
        for rows in hidden.split(max(1, MAX_LOGIT_ELEMENTS // self.weight.shape[0])):
            logits = self.compute_logits(rows)
            inside = torch.logsumexp(logits[:, index], dim=-1) - torch.logsumexp(logits, dim=-1)
            parts.append(-torch.expm1(inside.double().clamp(max=0)))
        return torch.cat(parts)

    @torch.inference_mode()
    def log_softmax_at(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities over the whole vocabulary of some ``tokens`` [rows, any], a choice of
        their own for each row.
        """
        count = max(1, MAX_LOGIT_ELEMENTS // self.weight.shape[0])
        pieces = zip(hidden.split(count), tokens.split(count), strict=True)
        return torch.cat(
            [
                torch.log_softmax(self.compute_logits(rows), dim=-1).gather(1, wanted)
                for rows, wanted in pieces
            ]
        )

    @torch.inference_mode()
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token [rows, vocabulary], in float32."""
        return self.scale_logits(torch.nn.functional.linear(hidden, self.weight, self.bias).float())

    def scale_logits(self, logits: Tensor) -> Tensor:
        """What the family does to the products of hidden states and matrix."""
        logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def get_lm_head(model: Any) -> LmHead:
    """The head of a causal language model of transformers."""
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (
        getattr(config, "logits_scaling", None) or 1.0
    )  # Cohere; Granite
    softcap = getattr(config, "final_logit_softcapping", None)
    return LmHead(
        output.weight,
        getattr(output, "bias", None),
        float(scale),
        None if softcap is None else float(softcap),
    )
