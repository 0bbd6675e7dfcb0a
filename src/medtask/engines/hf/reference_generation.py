"""Reference generation: transformers' own loop, one row at a time.

The sequence selects each token. Packed generation is compared with it, and it is used if packing
fails: the model's own code handles any kind of state (keys and values, recurrent states).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import advance_sequences
from medtask.engines.hf.decoding import TorchLogits


@torch.inference_mode()
def generate_reference(
    model: Any,
    seq: DecodingSequence,
    max_tokens: int,
    on_update: Callable[[DecodingSequence], None],
) -> None:
    """Generate the text of one sequence."""
    from transformers import GenerationConfig

    def select_token(tokens: Tensor, logits: Tensor) -> Tensor:
        advance_sequences([seq], TorchLogits(logits.float()))
        seq.tokens_read += tokens.shape[1] if seq.tokens_read == 0 else 1
        on_update(seq)
        forced_logits = torch.full_like(logits, -torch.inf)
        forced_logits[0, seq.tokens[-1]] = (
            0  # after the end of the sequence the token does not matter: it is dropped
        )
        return forced_logits

    def is_finished(tokens: Tensor, logits: Tensor, **unused: Any) -> Tensor:
        return torch.tensor([seq.is_finished], device=tokens.device)

    start = time.perf_counter()
    seq.start_timer()
    tokens = torch.tensor([seq.tokens], device=model.device)
    # The model's own settings fill the gaps in the settings passed, and a repetition penalty among
    # them would change the selection.
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
    seq.ms += (time.perf_counter() - start) * 1000
