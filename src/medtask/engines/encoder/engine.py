"""The `encoder` engine: models that read a whole text at once and write nothing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from medtask.engines.base import Caps, Engine, EngineInfo, PromptPlan, Rendering
from medtask.engines.encoder.reading import Reading
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Fault, Prompt, Scores, Status
from medtask.similarity import BATCH_TOKENS, fill_batches


class Reader(Protocol):
    """How an encoder comes from texts to scores: ZeroShot or Classifier. ``limit``: tokens that it
    reads of a text.
    """

    limit: int

    def read(self, prompts: Sequence[Prompt]) -> list[Reading]: ...

    def score(self, batch: Sequence[Reading]) -> list[tuple[BranchScores, ...]]: ...

    def describe(self, branch: Branch) -> tuple[str, ...]: ...


class EncoderEngine(Engine):
    """Reads ``Prompt.text`` and nothing else of a prompt: no instruction and no examples.
    ``budget``: tokens of one forward pass.
    """

    # "exact": a candidate's number is never guessed from a part of it. What the number means is for
    # ``info.details`` to tell.
    caps = Caps(score="exact")

    def __init__(self, reader: Reader, info: EngineInfo, *, budget: int = BATCH_TOKENS) -> None:
        self.reader = reader
        self.info = info
        self.budget = budget
        self.context_tokens = reader.limit

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        readings = []
        for reading in self.reader.read(prompts):
            reason = self._find_excess(reading)
            if reason is None and reading.prompt.branches:
                readings.append(reading)
            elif reading.prompt.record_id not in known:
                name = reading.prompt.record_id
                yield Scores(name, ()) if reason is None else Fault(name, Status.TOO_LONG, reason)
        for places in fill_batches([len(reading.tokens) for reading in readings], self.budget):
            batch = [readings[place] for place in places]
            if any(reading.prompt.record_id not in known for reading in batch):
                yield from (
                    scores for scores in self._score_batch(batch) if scores.record_id not in known
                )

    def render(self, prompt: Prompt) -> Rendering:
        candidates = self.reader.describe(prompt.branches[0]) if prompt.branches else ()
        (reading,) = self.reader.read([prompt])
        # Nothing is read behind the text: candidates cost no tokens of its context.
        return Rendering(prompt.text, candidates, tuple(reading.tokens), ((),) * len(candidates))

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        own = tuple(len(reading.tokens) for reading in self.reader.read(prompts))
        return PromptPlan(shared=0, own=own, label=0.0, limit=self.reader.limit, bare=True)

    def close(self) -> None:
        del self.reader

    def _find_excess(self, reading: Reading) -> str | None:
        """Why a prompt is too long, if it is."""
        if len(reading.tokens) > self.reader.limit:
            return f"{len(reading.tokens):,} tokens; the model reads at most {self.reader.limit:,}"
        if reading.longest_candidate > self.reader.limit:
            return (
                f"a candidate has {reading.longest_candidate:,} tokens; the model reads at "
                f"most {self.reader.limit:,}"
            )
        return None

    def _score_batch(self, batch: Sequence[Reading]) -> list[Scores]:
        start = time.perf_counter()
        try:
            scored = self.reader.score(batch)
        except (MemoryError, RuntimeError) as error:
            raise EngineError(
                f"the model failed on a batch ({type(error).__name__})",
                fix="run `medtask doctor --model` with this model",
            ) from error
        ms = (time.perf_counter() - start) * 1000 / len(batch)
        return [
            Scores(reading.prompt.record_id, branches, tokens_read=len(reading.tokens), ms=ms)
            for reading, branches in zip(batch, scored, strict=True)
        ]
