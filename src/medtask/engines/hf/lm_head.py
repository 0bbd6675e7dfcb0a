"""Computes logits and log-probabilities from hidden states, for some tokens or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_LOGIT_ELEMENTS = 1 << 24  # elements; a vocabulary of 262,144 tokens times 64 rows


@dataclass(frozen=True, slots=True)
class LmHead:
    """A model's output matrix [vocabulary, hidden size], and how its family scales logits."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    @torch.inference_mode()
    def compute_token_logits(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits [rows, tokens] of some tokens, computed in float32; only their rows of the matrix
        are read.
        """
        index = torch.tensor(tokens, device=self.weight.device)
        bias = None if self.bias is None else self.bias[index].float()
        logits = torch.nn.functional.linear(hidden.float(), self.weight[index].float(), bias)
        return self.scale_logits(logits)

    @torch.inference_mode()
    def compute_logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities over the whole vocabulary of each row's ``tokens`` [rows, count], in
        float64.
        """
        count = max(1, MAX_LOGIT_ELEMENTS // self.weight.shape[0])
        parts = []
        for rows, own in zip(hidden.split(count), tokens.split(count), strict=True):
            logits = self.compute_logits(rows)
            total = torch.logsumexp(logits, dim=-1, keepdim=True)
            parts.append(logits.gather(1, own).double() - total.double())
        return torch.cat(parts)

    @torch.inference_mode()
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token [rows, vocabulary], in float32."""
        return self.scale_logits(torch.nn.functional.linear(hidden, self.weight, self.bias).float())

    def scale_logits(self, logits: Tensor) -> Tensor:
        """Scale and cap the products of hidden states and matrix as the model family does."""
        logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def get_lm_head(model: Any) -> LmHead:
    """The head of a causal language model loaded with transformers."""
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
