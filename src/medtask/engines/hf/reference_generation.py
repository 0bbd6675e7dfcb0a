"""The slow way to write: transformers' own generation, one row at a time, told each token by the
draft.

The fast way is held against it, and it writes where packing fails: whatever a model keeps of its
past (keys and values, recurrent states), its own code knows how to carry it on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.hf.token_selection import advance_sequences_torch


@torch.inference_mode()
def generate_reference(
    model: Any,
    seq: DecodingSequence,
    max_tokens: int,
    on_update: Callable[[DecodingSequence], None],
) -> None:
    """Write one draft to its end."""
    from transformers import GenerationConfig

    def select_token(tokens: Tensor, logits: Tensor) -> Tensor:
        advance_sequences_torch([seq], logits.float())
        seq.tokens_read += tokens.shape[1] if seq.tokens_read == 0 else 1
        on_update(seq)
        forced_logits = torch.full_like(logits, -torch.inf)
        forced_logits[0, seq.tokens[-1]] = (
            0  # where the draft is done, any token does: it is dropped
        )
        return forced_logits

    def is_finished(tokens: Tensor, logits: Tensor, **unused: Any) -> Tensor:
        return torch.tensor([seq.is_finished], device=tokens.device)

    tokens = torch.tensor([seq.tokens], device=model.device)
    # What the model's own settings say fills every gap in those that are passed, and a repetition
    # penalty among them would be a second voice in the choice.
    settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
            ),
            logits_processor=[select_token],
            stopping_criteria=[is_finished],
        )
    finally:
        model.generation_config = settings
