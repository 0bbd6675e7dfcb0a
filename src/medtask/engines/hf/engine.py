"""The `hf` engine: any causal language model that transformers can load, asked exactly."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medtask.engines.base import Caps, Engine, EngineInfo, PromptPlan, Rendering
from medtask.engines.hf.chat import Question, ask_questions, count_shared, read_chat, render
from medtask.engines.hf.head import read_head
from medtask.engines.hf.pack import ATTENTION, attend
from medtask.engines.hf.plain import score_plainly
from medtask.engines.hf.reader import Reader
from medtask.engines.hf.search import mean_reads
from medtask.errors import EngineError
from medtask.records import Fault, Prompt, Scores, Status

SMALLEST_BUDGET = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """A prompt with its questions, one per branch: what is never torn apart between packs."""

    prompt: Prompt
    questions: tuple[Question, ...]

    def own_tokens(self, shared: int) -> int:
        return sum(len(question.base) - shared for question in self.questions)


class HfEngine(Engine):
    """``model`` and ``tokenizer`` as transformers loads them; ``budget``: tokens of one forward pass."""

    def __init__(self, model: Any, tokenizer: Any, info: EngineInfo, *, budget: int) -> None:
        self.model = model.eval()
        self.info = info
        self.budget = budget
        self.chat = read_chat(tokenizer)
        self.limit = _context_length(model, tokenizer)
        self.caps = Caps(score="exact", batch_invariant=model.dtype == torch.float32)
        self.reader = Reader(model.get_decoder(), read_head(model), model.device)
        self.packed = _pack_attention(model)

    def render(self, prompt: Prompt) -> Rendering:
        return render(self.chat, prompt.messages, prompt.branches[0])

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        units = self._encode(prompts)
        shared = _shared_tokens(units)
        reads = [mean_reads(question.trie) for unit in units for question in unit.questions]
        return PromptPlan(
            shared=shared,
            own=tuple(unit.own_tokens(shared) for unit in units),
            label=float(np.mean(reads)) if reads else 0.0,
            limit=self.limit,
            warnings=_find_beginnings(self.render(prompts[0]), prompts[0].branches[0].tails) if prompts else (),
        )

    def score(self, prompts: Sequence[Prompt], known: Collection[str] = ()) -> Iterator[Scores | Fault]:
        units = []
        for unit in self._encode(prompts):
            longest = max(len(question.base) + question.longest for question in unit.questions)
            if longest > self.limit:
                reason = f"{longest:,} tokens with the longest label; the model reads at most {self.limit:,}"
                yield Fault(unit.prompt.record_id, Status.TOO_LONG, reason)
            else:
                units.append(unit)
        shared = _shared_tokens(units)
        for pack in _fill_packs(units, shared, self.budget):
            if any(unit.prompt.record_id not in known for unit in pack):
                yield from self._score_pack(pack, shared) if self.packed else self._score_plainly(pack)

    def close(self) -> None:
        del self.model, self.reader
        _free_memory()

    def _encode(self, prompts: Sequence[Prompt]) -> list[Unit]:
        questions = iter(ask_questions(self.chat, [(prompt.messages, branch) for prompt in prompts for branch in prompt.branches]))
        return [Unit(prompt, tuple(itertools.islice(questions, len(prompt.branches)))) for prompt in prompts]

    def _score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        """One pack; where memory does not hold it, its halves, and smaller packs from then on."""
        try:
            yield from self._read_pack(pack, shared)
            return
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise EngineError(
                    f"the model failed on a batch ({type(error).__name__})", fix="run `medtask doctor --model` with this model"
                ) from error
        _free_memory()
        if len(pack) == 1:
            reason = f"out of memory on this row alone ({pack[0].own_tokens(shared):,} tokens)"
            yield Fault(pack[0].prompt.record_id, Status.FAILED, reason)
            return
        self.budget = max(SMALLEST_BUDGET, min(self.budget, sum(unit.own_tokens(shared) for unit in pack)) // 2)
        middle = len(pack) // 2
        yield from self._score_pack(pack[:middle], shared)
        yield from self._score_pack(pack[middle:], shared)

    def _read_pack(self, pack: Sequence[Unit], shared: int) -> list[Scores]:
        start = time.perf_counter()
        questions = [question for unit in pack for question in unit.questions]
        fresh = self.reader.keep_prefix(questions[0].base[:shared])
        scores, read = self.reader.read(questions, self.budget)
        ms_per_token = (time.perf_counter() - start) * 1000 / (sum(read) + fresh)
        answered = iter(zip(scores, read, strict=True))
        results: list[Scores] = []
        for unit in pack:
            branches, tokens = zip(*itertools.islice(answered, len(unit.questions)), strict=True)
            first = fresh if not results else 0  # the row for which the prefix was read pays for it
            mine = sum(tokens) + first
            results.append(Scores(unit.prompt.record_id, branches, mine, shared * len(branches) - first, mine * ms_per_token))
        return results

    def _score_plainly(self, pack: Sequence[Unit]) -> Iterator[Scores]:
        for unit in pack:
            start = time.perf_counter()
            branches, tokens = zip(*(score_plainly(self.model, question) for question in unit.questions), strict=True)
            yield Scores(unit.prompt.record_id, branches, sum(tokens), ms=(time.perf_counter() - start) * 1000)

    def compare_with_plain(self, prompts: Sequence[Prompt]) -> float:
        """Score prompts in one pack and by plain passes: the largest difference of any probability (inf where packing fails)."""
        units = self._encode(prompts)
        try:
            fast = [branch for scores in self._read_pack(units, _shared_tokens(units)) for branch in scores.branches]
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, EngineError):
            return float("inf")
        self.model.set_attn_implementation("eager")
        try:
            slow = [score_plainly(self.model, question)[0] for unit in units for question in unit.questions]
        finally:
            self.model.set_attn_implementation(ATTENTION)
        gaps = [np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).max() for one, other in zip(fast, slow, strict=True)]
        gaps += [abs((one.off_set or 0.0) - (other.off_set or 0.0)) for one, other in zip(fast, slow, strict=True)]
        worst = float(np.max(gaps))
        return worst if np.isfinite(worst) else float("inf")

    def give_up_packing(self, reason: str) -> None:
        """Read every label by itself from here on; the manifest tells why."""
        self.packed = False
        self.model.set_attn_implementation("eager")
        self.info = replace(self.info, details={**self.info.details, "packing": f"off: {reason}"})


def _shared_tokens(units: Sequence[Unit]) -> int:
    """Length of the prefix that all questions share; each keeps at least the token after which its answer begins."""
    questions = [question for unit in units for question in unit.questions]
    if not questions:
        return 0
    bases = [question.base for question in questions]
    return min(count_shared(bases), *(question.ask for question in questions))


def _fill_packs(units: Sequence[Unit], shared: int, budget: int) -> Iterator[list[Unit]]:
    """Longest rows first, so that memory runs out at the start or not at all; like lengths together waste no padding."""
    pack: list[Unit] = []
    tokens = 0
    for unit in sorted(units, key=lambda unit: -unit.own_tokens(shared)):
        if pack and tokens + unit.own_tokens(shared) > budget:
            yield pack
            pack, tokens = [], 0
        pack.append(unit)
        tokens += unit.own_tokens(shared)
    if pack:
        yield pack


def _find_beginnings(rendering: Rendering, names: Sequence[str]) -> tuple[str, ...]:
    """Labels whose tokens begin another label: only the end of the turn tells them apart."""
    whole = [tokens[:-1] for tokens in rendering.candidate_tokens]  # without the closing token
    order = sorted(range(len(whole)), key=lambda index: whole[index])
    # In sorted order everything that begins with a label comes right behind it.
    return tuple(
        f'the tokens of "{names[one]}" begin "{names[other]}": they are told apart only by where the answer ends'
        for one, other in itertools.pairwise(order)
        if whole[other][: len(whole[one])] == whole[one]
    )


def _pack_attention(model: Any) -> bool:
    """Give the model our attention; False where its code does not let attention be replaced."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    try:
        model.set_attn_implementation(ATTENTION)
    except (ValueError, KeyError, AttributeError):
        return False
    return bool(model.config.get_text_config()._attn_implementation == ATTENTION)


def _context_length(model: Any, tokenizer: Any) -> int:
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return int(min(limit for limit in limits if limit))


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError when the CPU's allocator fails.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
