"""A model whose answers a linear classifier can learn, and tables for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from medtask.engines.fake import FakeEngine
from medtask.records import BranchScores, Prompt, Scores

WORDS = {
    "curative": ("resection", "removal", "excision"),
    "palliative": ("bypass", "stent", "drainage"),
    "staging": ("biopsy", "laparoscopy", "sampling"),
}
OTHER_WORDS = ("of", "the", "left", "right", "colon", "liver", "with", "open", "under", "after")


class KeywordEngine(FakeEngine):
    """Prefers the label whose words a text has, except in a share of texts that looks random.

    Args:
        noise: Share of texts with another label.
        claimed_ms: Milliseconds that each prompt takes, by its scores; no time passes.
    """

    def __init__(self, noise: float = 0.0, claimed_ms: float = 1_000.0) -> None:
        super().__init__(seed=1)
        self.noise = noise
        self.claimed_ms = claimed_ms

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        return [
            replace(
                scores,
                ms=self.claimed_ms,
                branches=tuple(
                    self._score_words(prompt.text, branch.candidates) for branch in prompt.branches
                ),
            )
            for prompt, scores in zip(batch, super().score_batch(batch), strict=True)
        ]

    def _score_words(self, text: str, candidates: Sequence[str]) -> BranchScores:
        names = [candidate.strip() for candidate in candidates]
        found = self.choose_label(text)
        if found not in names:  # yes or no about one label
            return BranchScores((math.log(0.5), math.log(0.5)))
        rest = math.log(0.1 / (len(names) - 1))
        return BranchScores(tuple(math.log(0.9) if name == found else rest for name in names))

    def choose_label(self, text: str) -> str:
        """The label of the first keyword, or a random one."""
        chance = random.Random(text)
        if chance.random() < self.noise:
            return chance.choice(list(WORDS))
        words = text.split()
        return next(name for word in words for name, known in WORDS.items() if word in known)


def write_operations(count: int, *, repeated: float = 0.1, seed: int = 0) -> list[str]:
    """Texts with a keyword each; a share of them repeats an earlier one."""
    chance = random.Random(seed)
    texts: list[str] = []
    for number in range(count):
        if texts and chance.random() < repeated:
            texts.append(chance.choice(texts))
            continue
        words = [chance.choice([word for known in WORDS.values() for word in known])]
        words += chance.choices(OTHER_WORDS, k=4)
        chance.shuffle(words)
        texts.append(f"{' '.join(words)} {number}")
    return texts
