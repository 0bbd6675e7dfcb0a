"""An engine without a model: instant, repeatable, and faulty on demand. It drives the tests of every floor above."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from medtask.engines.base import Caps, Engine, EngineInfo, PromptPlan, Rendering
from medtask.errors import EngineError, UsageError
from medtask.records import Branch, BranchScores, Fault, Prompt, Scores, Status

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # odd multiplier that spreads the bits of a hash (Knuth, TAOCP 3, section 6.4)
_SHARPNESS = 6.0  # nats between the likeliest and the unlikeliest tail that a hash can give


class FakeEngine(Engine):
    """Scores that depend on nothing but the seed, the prompt's text and the tail.

    ``prefers``: probabilities of some tails (spaces around them do not count); the other tails share what is left.
    ``nan``, ``impossible``, ``too_long``: ids of records whose numbers are NaN, whose labels are all impossible
    (minus infinity), or that do not fit. ``fails_after``: the engine breaks down once it has given so many scores.
    ``asked`` counts the prompts that were scored.
    """

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
    ) -> None:
        self.prefers = dict(prefers or {})
        self.seed = seed
        self.batch = batch
        self.nan = nan
        self.impossible = impossible
        self.too_long = too_long
        self.fails_after = fails_after
        self.ms_per_row = ms_per_row
        self.asked = 0
        self.caps = Caps(score="exact", batch_invariant=True)
        self.info = EngineInfo(
            name="fake",
            title="fake engine (no model: the answers mean nothing)",
            identity={"reference": "fake:", "seed": str(seed), "prefers": json.dumps(self.prefers, sort_keys=True)},
        )

    def score(self, prompts: Sequence[Prompt], known: Collection[str] = ()) -> Iterator[Scores | Fault]:
        known = frozenset(known)
        readable = []
        for prompt in prompts:
            if prompt.record_id not in self.too_long:
                readable.append(prompt)
            elif prompt.record_id not in known:
                yield Fault(prompt.record_id, Status.TOO_LONG, "the record does not fit into the fake engine's context")
        readable.sort(key=lambda prompt: len(prompt.text))
        for start in range(0, len(readable), self.batch):
            batch = readable[start : start + self.batch]
            if any(prompt.record_id not in known for prompt in batch):
                yield from (scores for scores in self.score_batch(batch) if scores.record_id not in known)

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        """Score prompts that a real engine would read in one pass."""
        if self.ms_per_row:
            time.sleep(self.ms_per_row * len(batch) / 1000)
        self.asked += len(batch)
        if self.fails_after is not None and self.asked > self.fails_after:
            raise EngineError("the fake engine broke down, as it was told to", fix="run the same command again")
        return [self._score_prompt(prompt) for prompt in batch]

    def render(self, prompt: Prompt) -> Rendering:
        text = _read(prompt)
        tails = prompt.branches[0].tails
        return Rendering(text, tails, tuple(text.encode()), tuple(tuple(tail.encode()) for tail in tails))

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        texts = [_read(prompt).encode() for prompt in prompts]
        shared = _count_shared(min(texts, default=b""), max(texts, default=b""))
        tails = [tail.encode() for prompt in prompts for tail in prompt.branches[0].tails]
        mean = sum(map(len, tails)) / max(1, len(tails))
        return PromptPlan(shared=shared, own=tuple(len(text) - shared for text in texts), label=mean, limit=1_000_000)

    def _score_prompt(self, prompt: Prompt) -> Scores:
        text = int.from_bytes(blake2b(prompt.text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) ^ self.seed
        return Scores(
            prompt.record_id,
            tuple(self._score_branch(branch, text, prompt.record_id) for branch in prompt.branches),
            tokens_read=len(prompt.text) // 4 + 1,
            tokens_reused=sum(len(message.content) for message in prompt.messages) // 4,
            ms=self.ms_per_row,
        )

    def _score_branch(self, branch: Branch, text: int, record_id: str) -> BranchScores:
        if record_id in self.nan:
            return BranchScores((math.nan,) * len(branch.tails))
        if record_id in self.impossible:
            return BranchScores((-math.inf,) * len(branch.tails))
        weights = [math.exp(_SHARPNESS * _mix(text, tail)) for tail in _hash_tails(branch.tails)]
        wanted = [self.prefers.get(tail.strip()) for tail in branch.tails] if self.prefers else [None] * len(weights)
        free = sum(weight for weight, share in zip(weights, wanted, strict=True) if share is None)
        left = max(0.0, 1.0 - sum(share for share in wanted if share is not None))
        shares = [weight / free * left if share is None else share for weight, share in zip(weights, wanted, strict=True)]
        total = sum(shares)
        logprobs = tuple(math.log(share / total) if share > 0 else -math.inf for share in shares)
        return BranchScores(logprobs, off_set=0.5 * _mix(text, self.seed))


def load_fake(reference: str, **options: object) -> FakeEngine:
    """The engine of ``fake:``, or of ``fake:ms_per_row=5,fails_after=100``; options for real models have no meaning here.

    UsageError for settings that it does not have.
    """
    settings: dict[str, Any] = {}
    for setting in filter(None, reference.removeprefix("fake:").split(",")):
        name, _, value = setting.partition("=")
        try:
            settings[name] = _SETTINGS[name](value)
        except (KeyError, ValueError) as error:
            known = ", ".join(_SETTINGS)
            raise UsageError(f"the fake engine cannot be set to {setting!r}", fix=f"choose from {known}, as in fake:seed=1") from error
    return FakeEngine(**settings)


_SETTINGS: dict[str, Callable[[str], float]] = {"seed": int, "batch": int, "fails_after": int, "ms_per_row": float}


def _mix(text: int, tail: int) -> float:
    """A number in [0, 1) that looks random and depends on both hashes."""
    mixed = ((text ^ tail) * _GOLDEN) & _MASK
    return (((mixed ^ (mixed >> 32)) * _GOLDEN) & _MASK) / 2**64


@lru_cache(maxsize=64)
def _hash_tails(tails: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int.from_bytes(blake2b(tail.encode(), digest_size=8).digest()) for tail in tails)


def _count_shared(first: bytes, last: bytes) -> int:
    """How many bytes the first and the last of sorted texts begin with alike; all texts between them do, too."""
    return next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))


def _read(prompt: Prompt) -> str:
    return "".join(f"{message.role}: {message.content}\n" for message in prompt.messages) + prompt.branches[0].lead
