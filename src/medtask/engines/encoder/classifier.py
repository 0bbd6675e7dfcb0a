"""After training: an encoder with a layer on top that gives one number per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medtask.engines.encoder.reading import Reading
from medtask.engines.heads import Head
from medtask.records import Branch, BranchScores, Prompt

# the layer on top of a sentence encoder, where that is the model: see pooled.py
HEAD = "head.safetensors"


class Classifier:
    """A model of transformers' AutoModelForSequenceClassification, or a PooledClassifier: one
    output for each of the head's labels.
    """

    def __init__(self, model: Any, tokenizer: Any, head: Head, limit: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.head = head
        self.limit = limit

    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """The tokens of each prompt's text. InputError or EngineError for a prompt that the head
        cannot answer: see Head.score.
        """
        for prompt in prompts:
            self.head.find_places(prompt)
        texts = [prompt.text for prompt in prompts]
        tokens = (
            self.tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            if texts
            else []
        )
        return [Reading(prompt, row) for prompt, row in zip(prompts, tokens, strict=True)]

    def score(self, batch: Sequence[Reading]) -> list[tuple[BranchScores, ...]]:
        """The scores of prompts that are read in one pass."""
        import torch

        padded = self.tokenizer.pad(
            {"input_ids": [reading.tokens for reading in batch]}, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            logits = self.model(
                input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]
            ).logits
        rows = logits.float().cpu().numpy().astype(np.float64)
        return [
            self.head.score(reading.prompt, row) for reading, row in zip(batch, rows, strict=True)
        ]

    def describe(self, branch: Branch) -> tuple[str, ...]:
        """See Head.describe."""
        return self.head.describe(branch)
