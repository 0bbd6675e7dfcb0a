"""Without training: how near a text is in meaning to what each candidate stands for.

The numbers are similarities, brought into the shape of probabilities by fixed constants. They put
candidates in an order; how often the first one is right they do not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medtask.engines.encoder.reading import Reading
from medtask.engines.heads import answer_yes_no, is_yes_no, normalise_logs
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Meaning, Prompt
from medtask.similarity import SentenceEncoder, describe_meaning

# Fitted to the likelihood of gold, with MiniLM and bare names, on 400 rows of the train split of
# each of six sets of one label (alone they would want 0.07 to 0.4), and of two sets of several
# (middle 0.45 and 0.17, width 0.13
# and 0.12).
TEMPERATURE = 0.18
YES_MIDDLE, YES_WIDTH = 0.39, 0.20

NOTE = (
    "probabilities are similarities in meaning, spread by fixed constants "
    f"(temperature {TEMPERATURE:g}; yes or no: {YES_MIDDLE:g}, {YES_WIDTH:g}): they order the "
    "answers, but are not calibrated"
)


class ZeroShot:
    """Reads texts and the meanings of their candidates apart, and compares them."""

    def __init__(self, encoder: SentenceEncoder, title: str) -> None:
        self.encoder = encoder
        self.title = title
        self.limit = encoder.limit
        # A task's labels are the same in every batch; a row's own options are not, and are read
        # with their batch.
        self._embed_kept = lru_cache(maxsize=4)(self._embed)

    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """The tokens of each prompt's text. EngineError for a prompt whose candidates have no
        meaning that could be compared.
        """
        for prompt in prompts:
            for branch in prompt.branches:
                self._check(branch)
        texts = _list_meanings(prompts)
        lengths = dict(zip(texts, map(len, self.encoder.tokenise(texts)), strict=True))
        return [
            Reading(
                prompt,
                tokens,
                max((lengths[_describe(meaning)] for meaning in _meanings(prompt)), default=0),
            )
            for prompt, tokens in zip(
                prompts, self.encoder.tokenise([prompt.text for prompt in prompts]), strict=True
            )
        ]

    def score(self, batch: Sequence[Reading]) -> list[tuple[BranchScores, ...]]:
        """The scores of prompts that are read in one pass."""
        meanings = tuple(_list_meanings([reading.prompt for reading in batch]))
        near = (
            self.encoder.embed([reading.tokens for reading in batch]) @ self._embed_kept(meanings).T
        )
        places = {text: place for place, text in enumerate(meanings)}
        return [
            tuple(
                _score(branch, row[[places[_describe(meaning)] for meaning in branch.meanings]])
                for branch in reading.prompt.branches
            )
            for reading, row in zip(batch, near.astype(np.float64), strict=True)
        ]

    def describe(self, branch: Branch) -> tuple[str, ...]:
        """What each of a branch's candidates is compared as; "" where it is not."""
        texts = tuple(map(_describe, branch.meanings))
        return (*texts, "") if is_yes_no(branch) else texts

    def _check(self, branch: Branch) -> None:
        if not is_yes_no(branch) and len(branch.meanings) != len(branch.tails):
            raise EngineError(
                f"{self.title} cannot tell what the candidates of this question stand for",
                fix=(
                    "choose a language model: the hf, llamacpp and mlx engines read the question "
                    "itself (`medtask models`)"
                ),
            )
        if branch.weigh == "text" and branch.tails == tuple(
            meaning.name for meaning in branch.meanings
        ):
            raise EngineError(
                f"{self.title} compares texts in meaning, and knows no likelihood of one, which "
                "`readout: text` takes",
                fix="set `readout: letter`: this engine compares what the options say in any case",
            )

    def _embed(self, texts: tuple[str, ...]) -> NDArray[np.float32]:
        return self.encoder.embed_all(self.encoder.tokenise(texts))


def _score(branch: Branch, near: NDArray[np.float64]) -> BranchScores:
    if is_yes_no(branch):
        return BranchScores(answer_yes_no((float(near[0]) - YES_MIDDLE) / YES_WIDTH))
    return BranchScores(tuple(normalise_logs(near / TEMPERATURE).tolist()))


def _describe(meaning: Meaning) -> str:
    return describe_meaning(meaning.name, meaning.definition)


def _meanings(prompt: Prompt) -> list[Meaning]:
    return [meaning for branch in prompt.branches for meaning in branch.meanings]


def _list_meanings(prompts: Sequence[Prompt]) -> list[str]:
    """What the candidates of the prompts stand for, each text once."""
    different = dict.fromkeys(meaning for prompt in prompts for meaning in _meanings(prompt))
    return list(dict.fromkeys(map(_describe, different)))
