"""The `encoder` engine: models that embed or classify a text and do not generate."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from medtask.engines.base import (
    BatchSetting,
    Caps,
    Engine,
    EngineInfo,
    PromptPlan,
    Rendering,
)
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Fault, Prompt, Scores, Status
from medtask.similarity import BATCH_TOKENS, make_batches


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as encoder input.

    Attributes:
        prompt: The prompt.
        tokens: The tokens of the prompt's text.
        max_candidate_tokens: Tokens of the longest description that the text is compared with, 0
            for none.
    """

    prompt: Prompt
    tokens: list[int]
    max_candidate_tokens: int = 0


class EncoderScorer(Protocol):
    """Computes scores from texts; implemented by ZeroShotScorer and EncoderClassifier."""

    max_input_tokens: int

    def tokenize_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]: ...

    def score_batch(self, batch: Sequence[EncodedPrompt]) -> list[tuple[BranchScores, ...]]: ...

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]: ...


class EncoderEngine(Engine):
    """Scores candidates from ``Prompt.text`` alone, without the instruction and examples.

    ``budget_tokens`` limits the tokens of one forward pass.
    """

    # "exact": a candidate is scored as a whole. ``info.notes`` state whether scores are calibrated.
    caps = Caps(score="exact")

    def __init__(
        self, scorer: EncoderScorer, info: EngineInfo, *, budget_tokens: int = BATCH_TOKENS
    ) -> None:
        self.scorer = scorer
        self.info = info
        self.budget = budget_tokens
        self.context_tokens = scorer.max_input_tokens

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        encoded_prompts = []
        for encoded in self.scorer.tokenize_prompts(prompts):
            reason = self._describe_excess(encoded)
            if reason is None and encoded.prompt.branches:
                encoded_prompts.append(encoded)
            elif encoded.prompt.record_id not in cached:
                name = encoded.prompt.record_id
                yield Scores(name, ()) if reason is None else Fault(name, Status.TOO_LONG, reason)
        for places in make_batches(
            [len(encoded.tokens) for encoded in encoded_prompts], self.budget
        ):
            batch = [encoded_prompts[place] for place in places]
            if any(encoded.prompt.record_id not in cached for encoded in batch):
                yield from (
                    scores for scores in self._score_batch(batch) if scores.record_id not in cached
                )

    def render(self, prompt: Prompt) -> Rendering:
        candidates = self.scorer.describe_candidates(prompt.branches[0]) if prompt.branches else ()
        (encoded,) = self.scorer.tokenize_prompts([prompt])
        # The input holds the text only: candidates use no tokens of its context.
        return Rendering(prompt.text, candidates, tuple(encoded.tokens), ((),) * len(candidates))

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        own = tuple(len(encoded.tokens) for encoded in self.scorer.tokenize_prompts(prompts))
        return PromptPlan(
            shared_tokens=0,
            own_tokens=own,
            mean_label_tokens=0.0,
            max_input_tokens=self.scorer.max_input_tokens,
            sequence_tokens=own,
            text_only=True,
        )

    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting:
        sizes = tuple(self.budget * eighths // 8 for eighths in (1, 2, 4, 8, 16, 32))
        return BatchSetting("tokens", self.budget, sizes)

    def set_batch_size(self, size: int, *, generates: bool = False) -> None:
        self.budget = size

    def close(self) -> None:
        del self.scorer

    def _describe_excess(self, encoded: EncodedPrompt) -> str | None:
        """Why a prompt is too long; None if it fits."""
        if len(encoded.tokens) > self.scorer.max_input_tokens:
            return (
                f"{len(encoded.tokens):,} tokens; the model reads at most "
                f"{self.scorer.max_input_tokens:,}"
            )
        if encoded.max_candidate_tokens > self.scorer.max_input_tokens:
            return (
                f"a candidate has {encoded.max_candidate_tokens:,} tokens; the model reads at "
                f"most {self.scorer.max_input_tokens:,}"
            )
        return None

    def _score_batch(self, batch: Sequence[EncodedPrompt]) -> list[Scores]:
        start = time.perf_counter()
        try:
            scored = self.scorer.score_batch(batch)
        except (MemoryError, RuntimeError) as error:
            raise EngineError(
                f"the model failed on a batch ({type(error).__name__})",
                fix="run `medtask doctor --model` with this model",
            ) from error
        ms = (time.perf_counter() - start) * 1000 / len(batch)
        return [
            Scores(encoded.prompt.record_id, branches, tokens_read=len(encoded.tokens), ms=ms)
            for encoded, branches in zip(batch, scored, strict=True)
        ]
