"""The `fake` engine for tests: no model, reproducible scores, and failures on demand."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from medtask.engines.base import (
    BatchSetting,
    Caps,
    Engine,
    EngineInfo,
    PromptPlan,
    Rendering,
    TextCallbacks,
    list_text_callbacks,
)
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.engines.tokens.chat import count_common_prefix
from medtask.errors import EngineError, UsageError
from medtask.records import Branch, BranchScores, Fault, Generated, Limits, Prompt, Scores, Status

CONTEXT_TOKENS = 1_000_000  # tokens

_UINT64_MASK = 2**64 - 1
# odd multiplier that spreads the bits of a hash (Knuth, TAOCP 3, section 6.4)
_HASH_MULTIPLIER = 0x9E3779B97F4A7C15
_TOO_LONG = "the record does not fit into the fake engine's context"
_LOGIT_RANGE = 6.0  # nats between the most and the least probable candidate


class FakeEngine(Engine):
    """Scores that depend only on the seed, the prompt's text and the candidate.

    ``prompt_count`` is the number of prompts that were scored or continued.

    Args:
        prefers: Probabilities of some candidates, without surrounding whitespace; the others share
            the remainder.
        seed: Seed of all numbers.
        batch: Prompts per batch.
        nan: Ids of records whose scores are NaN.
        impossible: Ids of records whose candidates all have the probability 0.
        too_long: Ids of records that do not fit into the context.
        fails_after: Number of prompts after which the engine raises an error.
        ms_per_row: Milliseconds that each prompt takes.
        generated_texts: Generated text by record id.
        endless_thinking_ids: Ids of records with thoughts that do not end.
    """

    streams_several = True
    scores_while_generating = True

    def __init__(
        self,
        prefers: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        batch: int = 16,
        nan: Collection[str] = (),
        impossible: Collection[str] = (),
        too_long: Collection[str] = (),
        fails_after: int | None = None,
        ms_per_row: float = 0.0,
        generated_texts: Mapping[str, str] | None = None,
        endless_thinking_ids: Collection[str] = (),
    ) -> None:
        self.prefers = dict(prefers or {})
        self.seed = seed
        self.batch = batch
        self.nan = nan
        self.impossible = impossible
        self.too_long = too_long
        self.fails_after = fails_after
        self.ms_per_row = ms_per_row
        self.generated_texts = dict(generated_texts or {})
        self.endless_thinking_ids = endless_thinking_ids
        self.prompt_count = 0
        self.context_tokens = CONTEXT_TOKENS
        self.caps = Caps(
            score="exact", generate=True, schema=True, thinking_markers=True, batch_invariant=True
        )
        self.info = EngineInfo(
            name="fake",
            title="fake engine (no model: the answers mean nothing)",
            identity={
                "reference": "fake:",
                "seed": str(seed),
                "prefers": json.dumps(self.prefers, sort_keys=True),
            },
            traits=BUILT_IN_ENGINES["fake"].traits,
        )

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        cached = frozenset(cached)
        readable = []
        for prompt in prompts:
            if prompt.record_id not in self.too_long:
                readable.append(prompt)
            elif prompt.record_id not in cached:
                yield Fault(prompt.record_id, Status.TOO_LONG, _TOO_LONG)
        readable.sort(key=lambda prompt: len(prompt.text))
        for start in range(0, len(readable), self.batch):
            batch = readable[start : start + self.batch]
            if any(prompt.record_id not in cached for prompt in batch):
                yield from (
                    scores for scores in self.score_batch(batch) if scores.record_id not in cached
                )

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        """Score prompts that a real engine would read in one pass."""
        self._simulate_work(batch)
        return [self._score_prompt(prompt) for prompt in batch]

    def _simulate_work(self, batch: Sequence[Prompt]) -> None:
        if self.ms_per_row:
            time.sleep(self.ms_per_row * len(batch) / 1000)
        self.prompt_count += len(batch)
        if self.fails_after is not None and self.prompt_count > self.fails_after:
            raise EngineError(
                "the fake engine failed, as requested", fix="run the same command again"
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        callbacks = list_text_callbacks(on_text, prompts, several=True)
        for prompt in prompts:
            if prompt.record_id in cached:
                continue
            if prompt.record_id in self.too_long:
                yield Fault(prompt.record_id, Status.TOO_LONG, _TOO_LONG)
                continue
            self._simulate_work([prompt])
            words = self._make_text(prompt, limits).split(" ")
            count = min(len(words), limits.max_tokens)
            text = " ".join(words[:count])
            if callback := callbacks.get(prompt.record_id):
                callback(text)
            yield Generated(
                prompt.record_id,
                text,
                "stop" if count == len(words) else "length",
                -0.1 * count,
                count,
                len(prompt.text) // 4 + count,
                ms=self.ms_per_row,
            )

    def _make_text(self, prompt: Prompt, limits: Limits) -> str:
        if prompt.record_id in self.generated_texts and not limits.think:
            return self.generated_texts[prompt.record_id]
        if limits.think:
            return "hm " * (
                limits.max_tokens * 2 if prompt.record_id in self.endless_thinking_ids else 5
            )
        if limits.schema is not None:
            return json.dumps(
                _make_value(limits.schema, prompt.text, _hash_text(prompt.text) ^ self.seed),
                ensure_ascii=False,
            )
        return f"Nobody knows. This was written about {len(prompt.text)} characters of text."

    def render(self, prompt: Prompt) -> Rendering:
        text = _render_prompt(prompt)
        candidates = prompt.branches[0].candidates if prompt.branches else ()
        return Rendering(
            text,
            candidates,
            tuple(text.encode()),
            tuple(tuple(candidate.encode()) for candidate in candidates),
        )

    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting | None:
        return None if generates else BatchSetting("rows", self.batch, (4, 16, 64))

    def set_batch_size(self, size: int, *, generates: bool = False) -> None:
        self.batch = size

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        texts = [_render_prompt(prompt).encode() for prompt in prompts]
        shared = count_common_prefix([tuple(text) for text in texts]) if texts else 0
        candidates = [
            [
                len(candidate.encode())
                for branch in prompt.branches[:1]
                for candidate in branch.candidates
            ]
            for prompt in prompts
        ]
        lengths = [length for own in candidates for length in own]
        return PromptPlan(
            shared_tokens=shared,
            own_tokens=tuple(len(text) - shared for text in texts),
            mean_label_tokens=sum(lengths) / max(1, len(lengths)),
            max_input_tokens=CONTEXT_TOKENS,
            sequence_tokens=tuple(
                len(text) + max(own, default=0) for text, own in zip(texts, candidates, strict=True)
            ),
        )

    def _score_prompt(self, prompt: Prompt) -> Scores:
        text_hash = _hash_text(prompt.text) ^ self.seed
        return Scores(
            prompt.record_id,
            # Branches that differ only in their question or prefix must not have equal scores.
            tuple(
                self._score_branch(
                    branch, text_hash ^ _hash_text(branch.ask + branch.prefix), prompt.record_id
                )
                for branch in prompt.branches
            ),
            tokens_read=len(prompt.text) // 4 + 1,
            tokens_reused=sum(len(message.content) for message in prompt.messages) // 4,
            ms=self.ms_per_row,
        )

    def _score_branch(self, branch: Branch, text_hash: int, record_id: str) -> BranchScores:
        if record_id in self.nan:
            return BranchScores((math.nan,) * len(branch.candidates))
        if record_id in self.impossible:
            return BranchScores((-math.inf,) * len(branch.candidates))
        weights = [
            math.exp(_LOGIT_RANGE * _mix_hashes(text_hash, candidate))
            for candidate in _hash_candidates(branch.candidates)
        ]
        preferred = (
            [self.prefers.get(candidate.strip()) for candidate in branch.candidates]
            if self.prefers
            else [None] * len(weights)
        )
        unassigned_weight = sum(
            weight for weight, share in zip(weights, preferred, strict=True) if share is None
        )
        remaining_share = max(0.0, 1.0 - sum(share for share in preferred if share is not None))
        shares = [
            weight / unassigned_weight * remaining_share if share is None else share
            for weight, share in zip(weights, preferred, strict=True)
        ]
        total = sum(shares)
        logprobs = tuple(math.log(share / total) if share > 0 else -math.inf for share in shares)
        return BranchScores(logprobs, off_set=0.5 * _mix_hashes(text_hash, self.seed))


def load_fake(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> FakeEngine:
    """Load ``fake:`` or ``fake:ms_per_row=5,fails_after=100``; ``options`` are ignored.

    Raises UsageError for an unknown setting.
    """
    settings: dict[str, Any] = {}
    for setting in filter(None, reference.removeprefix("fake:").split(",")):
        name, _, value = setting.partition("=")
        try:
            settings[name] = _REFERENCE_OPTIONS[name](value)
        except (KeyError, ValueError) as error:
            option_names = ", ".join(_REFERENCE_OPTIONS)
            raise UsageError(
                f"{setting!r} is not a valid setting of the fake engine",
                fix=f"choose from {option_names}, as in fake:seed=1",
            ) from error
    return FakeEngine(**settings)


_REFERENCE_OPTIONS: dict[str, Callable[[str], float]] = {
    "seed": int,
    "batch": int,
    "fails_after": int,
    "ms_per_row": float,
}


def _mix_hashes(text_hash: int, candidate_hash: int) -> float:
    """A pseudo-random number in [0, 1) that depends on both hashes."""
    mixed = ((text_hash ^ candidate_hash) * _HASH_MULTIPLIER) & _UINT64_MASK
    return (((mixed ^ (mixed >> 32)) * _HASH_MULTIPLIER) & _UINT64_MASK) / 2**64


@lru_cache(maxsize=64)
def _hash_candidates(candidates: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(blake2b(candidate.encode(), digest_size=8).digest())
        for candidate in candidates
    )


def _render_prompt(prompt: Prompt) -> str:
    turns = "".join(f"{message.role}: {message.content}\n" for message in prompt.messages)
    thoughts = "" if prompt.thoughts is None else f"<think>{prompt.thoughts}</think>"
    return (
        turns
        + thoughts
        + prompt.partial_response
        + (prompt.branches[0].ask + prompt.branches[0].prefix if prompt.branches else "")
    )


def _hash_text(text: str) -> int:
    return (
        int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if text
        else 0
    )


def _make_value(schema: Mapping[str, Any], text: str, random_number: int) -> object:
    """A value that satisfies a task's schema."""
    if "enum" in schema:
        return schema["enum"][random_number % len(schema["enum"])]
    kinds = schema.get("type", "string")
    kind = (
        kinds
        if isinstance(kinds, str)
        else next((kind for kind in kinds if kind != "null"), "null")
    )
    match kind:
        case "object":
            parts = schema.get("properties", {}).items()
            return {
                name: _make_value(part, text, random_number ^ _hash_text(name))
                for name, part in parts
            }
        case "array":
            return [
                _make_value(schema["items"], text, random_number + at)
                for at in range(max(1, int(schema.get("minItems", 1))))
            ]
        case "boolean":
            return bool(random_number % 2)
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", random_number % 100))
        case "null":
            return None
    if schema.get("quote"):
        return text[: 1 + random_number % 20]
    return "2026-11-21" if schema.get("format") == "date" else "something"
