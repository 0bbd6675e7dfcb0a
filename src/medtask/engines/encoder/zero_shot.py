"""Without training: how near a text is in meaning to what each candidate stands for.

The numbers are similarities, brought into the shape of probabilities by fixed constants. They put
candidates in an order; how often the first one is right they do not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medtask.engines.encoder.encoded_prompt import EncodedPrompt
from medtask.engines.label_head import compute_yes_no_logprobs, is_yes_no, log_softmax
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Description, Prompt
from medtask.similarity import SentenceEncoder, format_description

# Fitted to the likelihood of gold, with MiniLM and bare names, on 400 rows of the train split of
# each of six sets of one label (alone they would want 0.07 to 0.4), and of two sets of several
# (middle 0.45 and 0.17, width 0.13
# and 0.12).
TEMPERATURE = 0.18
YES_NO_MIDPOINT, YES_NO_SCALE = 0.39, 0.20

CALIBRATION_NOTE = (
    "probabilities are similarities in meaning, spread by fixed constants "
    f"(temperature {TEMPERATURE:g}; yes or no: {YES_NO_MIDPOINT:g}, {YES_NO_SCALE:g}): they "
    "order the "
    "answers, but are not calibrated"
)


class ZeroShotScorer:
    """Reads texts and the meanings of their candidates apart, and compares them."""

    def __init__(self, encoder: SentenceEncoder, title: str) -> None:
        self.encoder = encoder
        self.title = title
        self.max_input_tokens = encoder.max_tokens
        # A task's labels are the same in every batch; a row's own options are not, and are read
        # with their batch.
        self._embed_cached = lru_cache(maxsize=4)(self._embed)

    def tokenize_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """The tokens of each prompt's text. EngineError for a prompt whose candidates have no
        meaning that could be compared.
        """
        for prompt in prompts:
            for branch in prompt.branches:
                self._check_branch(branch)
        texts = _list_description_texts(prompts)
        lengths = dict(zip(texts, map(len, self.encoder.tokenize(texts)), strict=True))
        return [
            EncodedPrompt(
                prompt,
                tokens,
                max(
                    (
                        lengths[_format_description(description)]
                        for description in _get_descriptions(prompt)
                    ),
                    default=0,
                ),
            )
            for prompt, tokens in zip(
                prompts, self.encoder.tokenize([prompt.text for prompt in prompts]), strict=True
            )
        ]

    def score_batch(self, batch: Sequence[EncodedPrompt]) -> list[tuple[BranchScores, ...]]:
        """The scores of prompts that are read in one pass."""
        descriptions = tuple(_list_description_texts([encoded.prompt for encoded in batch]))
        similarities = (
            self.encoder.embed([encoded.tokens for encoded in batch])
            @ self._embed_cached(descriptions).T
        )
        places = {text: place for place, text in enumerate(descriptions)}
        return [
            tuple(
                _score_similarities(
                    branch,
                    row[
                        [
                            places[_format_description(description)]
                            for description in branch.descriptions
                        ]
                    ],
                )
                for branch in encoded.prompt.branches
            )
            for encoded, row in zip(batch, similarities.astype(np.float64), strict=True)
        ]

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]:
        """What each of a branch's candidates is compared as; "" where it is not."""
        texts = tuple(map(_format_description, branch.descriptions))
        return (*texts, "") if is_yes_no(branch) else texts

    def _check_branch(self, branch: Branch) -> None:
        if not is_yes_no(branch) and len(branch.descriptions) != len(branch.candidates):
            raise EngineError(
                f"{self.title} cannot tell what the candidates of this question stand for",
                fix=(
                    "choose a language model: the hf, llamacpp and mlx engines read the question "
                    "itself (`medtask models`)"
                ),
            )
        if branch.weigh == "text" and branch.candidates == tuple(
            description.name for description in branch.descriptions
        ):
            raise EngineError(
                f"{self.title} compares texts in meaning, and knows no likelihood of one, which "
                "`readout: text` takes",
                fix="set `readout: letter`: this engine compares what the options say in any case",
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


def _get_descriptions(prompt: Prompt) -> list[Description]:
    return [description for branch in prompt.branches for description in branch.descriptions]


def _list_description_texts(prompts: Sequence[Prompt]) -> list[str]:
    """What the candidates of the prompts stand for, each text once."""
    unique_descriptions = dict.fromkeys(
        description for prompt in prompts for description in _get_descriptions(prompt)
    )
    return list(dict.fromkeys(map(_format_description, unique_descriptions)))
