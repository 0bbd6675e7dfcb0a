"""Zero-shot scores: similarity between a text and the description of each candidate.

Fixed constants convert similarities to probabilities. They rank the candidates, but are not
calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medtask.engines.encoder.engine import EncodedPrompt
from medtask.engines.label_head import compute_yes_no_logprobs, is_yes_no
from medtask.engines.tokens.trie import log_softmax
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Description, Prompt
from medtask.similarity import SentenceEncoder, format_description

# Fitted by maximum likelihood with MiniLM and label names only, on 400 rows of the train split of
# each of six single-label data sets (fitted separately: 0.07 to 0.4) and two multi-label ones
# (midpoint 0.45 and 0.17, scale 0.13 and 0.12).
TEMPERATURE = 0.18
YES_NO_MIDPOINT, YES_NO_SCALE = 0.39, 0.20
SPREAD_FACT = f"{TEMPERATURE:g}, {YES_NO_MIDPOINT:g}, {YES_NO_SCALE:g}"  # of a model's identity

CALIBRATION_NOTE = (
    "the model's own probabilities are similarities in meaning, spread by fixed constants "
    f"(temperature {TEMPERATURE:g}; yes or no: {YES_NO_MIDPOINT:g}, {YES_NO_SCALE:g}): they "
    "rank the answers, and need a calibration to be right as often as they say"
)


class ZeroShotScorer:
    """Embeds texts and descriptions of candidates separately and compares the vectors."""

    def __init__(self, encoder: SentenceEncoder, title: str) -> None:
        self.encoder = encoder
        self.title = title
        self.max_input_tokens = encoder.max_tokens
        # A task's labels are the same in every batch; options that differ by row are not.
        self._embed_cached = lru_cache(maxsize=4)(self._embed)

    def tokenize_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """The tokens of each prompt's text; EngineError for candidates without a description."""
        for prompt in prompts:
            for branch in prompt.branches:
                self._check_branch(branch)
        texts = _list_description_texts(prompts)
        lengths = dict(zip(texts, map(len, self.encoder.tokenize(texts)), strict=True))
        rows = self.encoder.tokenize([prompt.text for prompt in prompts])
        encoded = []
        for prompt, tokens in zip(prompts, rows, strict=True):
            candidates = map(lengths.__getitem__, _list_description_texts([prompt]))
            encoded.append(EncodedPrompt(prompt, tokens, max(candidates, default=0)))
        return encoded

    def score_batch(self, batch: Sequence[EncodedPrompt]) -> list[tuple[BranchScores, ...]]:
        """The scores of prompts, computed in one forward pass."""
        descriptions = tuple(_list_description_texts([encoded.prompt for encoded in batch]))
        similarities = (
            self.encoder.embed([encoded.tokens for encoded in batch])
            @ self._embed_cached(descriptions).T
        )
        indices = {text: index for index, text in enumerate(descriptions)}

        def score_branch(branch: Branch, row: NDArray[np.float64]) -> BranchScores:
            own = [indices[_format_description(one)] for one in branch.descriptions]
            return _score_similarities(branch, row[own])

        return [
            tuple(score_branch(branch, row) for branch in encoded.prompt.branches)
            for encoded, row in zip(batch, similarities.astype(np.float64), strict=True)
        ]

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]:
        """The text compared for each candidate; "" for one that is not compared."""
        texts = tuple(map(_format_description, branch.descriptions))
        return (*texts, "") if is_yes_no(branch) else texts

    def _check_branch(self, branch: Branch) -> None:
        if not is_yes_no(branch) and len(branch.descriptions) != len(branch.candidates):
            raise EngineError(
                f"{self.title} does not know what the candidates of this question mean",
                fix=(
                    "choose a language model: the hf, llamacpp and mlx engines read the question "
                    "itself (`medtask models`)"
                ),
            )
        if branch.weigh == "text" and branch.candidates == tuple(
            description.name for description in branch.descriptions
        ):
            raise EngineError(
                f"{self.title} compares meanings and does not compute the likelihood of a text, "
                "which `readout: text` needs",
                fix="set `readout: letter`: this engine compares the options' texts in any case",
            )

    def _embed(self, texts: tuple[str, ...]) -> NDArray[np.float32]:
        return self.encoder.embed_batched(self.encoder.tokenize(texts))


def _score_similarities(branch: Branch, similarities: NDArray[np.float64]) -> BranchScores:
    if is_yes_no(branch):
        return BranchScores(
            compute_yes_no_logprobs((float(similarities[0]) - YES_NO_MIDPOINT) / YES_NO_SCALE)
        )
    return BranchScores(tuple(log_softmax(similarities / TEMPERATURE).tolist()))


def _format_description(description: Description) -> str:
    return format_description(description.name, description.definition)


def _list_description_texts(prompts: Sequence[Prompt]) -> list[str]:
    """The descriptions of the prompts' candidates as texts, each once."""
    branches = (branch for prompt in prompts for branch in prompt.branches)
    unique = dict.fromkeys(one for branch in branches for one in branch.descriptions)
    return list(dict.fromkeys(map(_format_description, unique)))
