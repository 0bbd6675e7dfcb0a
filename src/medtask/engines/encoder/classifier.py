"""Scores labels with a trained encoder's classification head, one output per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.engines.encoder.engine import EncodedPrompt
from medtask.engines.label_head import LabelHead
from medtask.records import Branch, BranchScores, Prompt

# The head of a pooled sentence encoder: see pooled_classifier.py.
HEAD_FILE = "head.safetensors"


class EncoderClassifier:
    """Scores prompts with a model that has one output for each of the head's labels.

    Args:
        model: A model of transformers' AutoModelForSequenceClassification, or a PooledClassifier.
        tokenizer: The model's tokenizer.
        head: The labels of the outputs.
        max_input_tokens: Longest input that the model reads.
    """

    def __init__(self, model: Any, tokenizer: Any, head: LabelHead, max_input_tokens: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.head = head
        self.max_input_tokens = max_input_tokens

    def tokenize_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """The tokens of each prompt's text; raises as `LabelHead.score_branches` does."""
        for prompt in prompts:
            self.head.find_label_indices(prompt)
        texts = [prompt.text for prompt in prompts]
        tokens = (
            self.tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            if texts
            else []
        )
        return [EncodedPrompt(prompt, row) for prompt, row in zip(prompts, tokens, strict=True)]

    def score_batch(self, batch: Sequence[EncodedPrompt]) -> list[tuple[BranchScores, ...]]:
        """The scores of prompts, computed in one forward pass."""
        rows = self.compute_logits([encoded.tokens for encoded in batch]).astype(np.float64)
        return [
            self.head.score_branches(encoded.prompt, row)
            for encoded, row in zip(batch, rows, strict=True)
        ]

    def compute_logits(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The outputs of the model, [texts, labels]."""
        import torch

        padded = self.tokenizer.pad(
            {"input_ids": [list(row) for row in tokens]}, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            logits: NDArray[np.float32] = (
                self.model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
                .logits.float()
                .cpu()
                .numpy()
            )
        return logits

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]:
        """See `LabelHead.describe_candidates`."""
        return self.head.describe_candidates(branch)
