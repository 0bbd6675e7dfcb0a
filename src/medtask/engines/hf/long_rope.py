"""Rotary frequencies of LongRoPE (Ding et al. 2024, arXiv:2402.13753), which depend on the length.

transformers chooses them in each pass by its last position. A text's tokens that are read in
several passes, or together with longer texts, would get frequencies of different kinds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Text = TypeVar("Text")


class LongRope:
    """The rotary embeddings of a model of transformers.

    Attributes:
        limit: The tokens of the longest text that is read with the frequencies for short texts;
            a huge number for a model without LongRoPE.
    """

    def __init__(self, model: Any) -> None:
        self._modules = [
            module for module in model.modules() if getattr(module, "rope_type", None) == "longrope"
        ]
        self.limit = min(map(_get_limit, self._modules), default=sys.maxsize)

    def split(
        self, texts: Sequence[Text], count_tokens: Callable[[Text], int]
    ) -> Iterator[Sequence[Text]]:
        """Split texts into those that are read with the same frequencies."""
        for is_long in (True, False):
            if part := [text for text in texts if (count_tokens(text) > self.limit) is is_long]:
                yield part

    @contextmanager
    def use_long_frequencies(self) -> Iterator[None]:
        """Read all tokens with the frequencies for long texts."""
        kept = [module.original_inv_freq for module in self._modules]
        for module, short in zip(self._modules, kept, strict=True):
            module.original_inv_freq = _compute_long_frequencies(module).to(short.device)
        try:
            yield
        finally:
            for module, short in zip(self._modules, kept, strict=True):
                module.original_inv_freq = short


def _get_limit(module: Any) -> int:
    return int(module.config.rope_parameters["original_max_position_embeddings"])


def _compute_long_frequencies(module: Any) -> torch.Tensor:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies: torch.Tensor
    frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, seq_len=_get_limit(module) + 1)
    return frequencies
