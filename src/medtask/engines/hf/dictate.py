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

from medtask.engines.hf.step import go_on
from medtask.engines.writing.draft import Draft


@torch.inference_mode()
def dictate(model: Any, draft: Draft, max_tokens: int, show: Callable[[Draft], None]) -> None:
    """Write one draft to its end."""
    from transformers import GenerationConfig

    def choose(tokens: Tensor, logits: Tensor) -> Tensor:
        go_on([draft], logits.float())
        draft.read += tokens.shape[1] if draft.read == 0 else 1
        show(draft)
        told = torch.full_like(logits, -torch.inf)
        told[0, draft.tokens[-1]] = 0  # where the draft is done, any token does: it is dropped
        return told

    def stop(tokens: Tensor, logits: Tensor, **unused: Any) -> Tensor:
        return torch.tensor([draft.done], device=tokens.device)

    tokens = torch.tensor([draft.tokens], device=model.device)
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
            logits_processor=[choose],
            stopping_criteria=[stop],
        )
    finally:
        model.generation_config = settings
