"""The `hf` engine: any causal language model that transformers can load, asked exactly."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medtask.engines.base import Caps, Engine, EngineInfo, PromptPlan, Rendering
from medtask.engines.hf.generate import Writer
from medtask.engines.hf.head import read_head
from medtask.engines.hf.memory import free_memory, is_out_of_memory
from medtask.engines.hf.pack import ATTENTION, attend
from medtask.engines.hf.plain import score_plainly
from medtask.engines.hf.reader import Reader
from medtask.engines.tokens.batch import Unit, fill_packs, group_units, make_unit
from medtask.engines.tokens.chat import ask_questions, read_chat, render
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.engines.tokens.trie import mean_reads
from medtask.errors import EngineError
from medtask.records import Branch, Fault, Generated, Limits, Prompt, Scores, Status

SMALLEST_BUDGET = 64


class HfEngine(Engine):
    """``model`` and ``tokenizer`` as transformers loads them; ``budget``: tokens of one forward pass."""

    def __init__(self, model: Any, tokenizer: Any, info: EngineInfo, *, budget: int) -> None:
        self.model = model.eval()
        self.info = info
        self.budget = budget
        self.chat = read_chat(HubTokenizer(tokenizer))
        self.limit = self.context_tokens = _context_length(model, tokenizer)
        self.caps = Caps(
            score="exact",
            generate=True,
            schema=bool(tokenizer.is_fast),
            thinking_markers=self.chat.thinking.native,
            batch_invariant=model.dtype == torch.float32,
        )
        self.reader = Reader(model.get_decoder(), read_head(model), model.device)
        self.writer = Writer(model, self.chat, self.reader, self.limit)
        self.packed = _pack_attention(model)

    def render(self, prompt: Prompt) -> Rendering:
        return render(self.chat, prompt)

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        units = self._encode(prompts)
        groups = group_units(units)
        shared = {unit.prompt.record_id: group.shared for group in groups for unit in group.units}
        reads = [mean_reads(question.trie) if question.trie else 0.0 for unit in units for question in unit.questions]
        return PromptPlan(
            shared=groups[0].shared if groups else 0,
            own=tuple(unit.own_tokens(shared[unit.prompt.record_id]) for unit in units),
            label=float(np.mean(reads)) if reads else 0.0,
            limit=self.limit,
            warnings=_find_beginnings(self.render(prompts[0]), prompts[0].branches[0]) if prompts and prompts[0].branches else (),
        )

    def score(self, prompts: Sequence[Prompt], known: Collection[str] = ()) -> Iterator[Scores | Fault]:
        units = []
        for unit in self._encode(prompts):
            if not unit.questions:
                yield Scores(unit.prompt.record_id, ())
            elif unit.longest > self.limit:
                reason = f"{unit.longest:,} tokens with the longest label; the model reads at most {self.limit:,}"
                yield Fault(unit.prompt.record_id, Status.TOO_LONG, reason)
            else:
                units.append(unit)
        for group in group_units(units):
            for pack in fill_packs(group, self.budget):
                if any(unit.prompt.record_id not in known for unit in pack):
                    yield from self._score_pack(pack, group.shared) if self.packed else self._score_plainly(pack)

    def generate(
        self, prompts: Sequence[Prompt], limits: Limits, known: Collection[str] = (), on_text: Callable[[str], None] | None = None
    ) -> Iterator[Generated | Fault]:
        """See Engine.generate. A text begins with its first character that is not blank, unless it goes on in the middle of
        something written, and ends with its last one; a loop's text ends with its first round. Known rows are written too
        where another is not: what stands beside a row decides the last digits of its numbers.
        """
        return self.writer.write(prompts, limits, known, on_text, self.budget if self.packed else None)

    def close(self) -> None:
        del self.model, self.reader, self.writer
        free_memory()

    def _encode(self, prompts: Sequence[Prompt]) -> list[Unit]:
        questions = iter(ask_questions(self.chat, [(prompt, branch) for prompt in prompts for branch in prompt.branches]))
        return [
            make_unit(prompt, list(itertools.islice(questions, len(prompt.branches))))
            if prompt.branches
            else make_unit(prompt, (), self.render(prompt).prompt_tokens)
            for prompt in prompts
        ]

    def _score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        """One pack; where memory does not hold it, its halves, and smaller packs from then on."""
        try:
            yield from self._read_pack(pack, shared)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise EngineError(
                    f"the model failed on a batch ({type(error).__name__})", fix="run `medtask doctor --model` with this model"
                ) from error
        free_memory()
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
        fresh = self.reader.keep_prefix(pack[0].paths[0][:shared])
        read = self.reader.read([unit.questions for unit in pack], self.budget)
        ms_per_token = (time.perf_counter() - start) * 1000 / (sum(tokens for _, tokens in read) + fresh)
        results: list[Scores] = []
        for unit, (branches, tokens) in zip(pack, read, strict=True):
            first = fresh if not results else 0  # the row for which the prefix was read pays for it
            reused = unit.asked_apart - unit.own_tokens(shared) - first
            results.append(Scores(unit.prompt.record_id, branches, tokens + first, reused, (tokens + first) * ms_per_token))
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
            read = {
                scores.record_id: scores.branches
                for group in group_units(units)
                for scores in self._read_pack(group.units, group.shared)
            }
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, EngineError):
            return float("inf")
        self.model.set_attn_implementation("eager")
        try:
            slow = [score_plainly(self.model, question)[0] for unit in units for question in unit.questions]
        finally:
            self.model.set_attn_implementation(ATTENTION)
        fast = [branch for unit in units for branch in read[unit.prompt.record_id]]
        gaps = [np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).max() for one, other in zip(fast, slow, strict=True)]
        gaps += [abs((one.off_set or 0.0) - (other.off_set or 0.0)) for one, other in zip(fast, slow, strict=True)]
        worst = float(np.max(gaps))
        return worst if np.isfinite(worst) else float("inf")

    def give_up_packing(self, reason: str) -> None:
        """Read every label by itself from here on; the manifest tells why."""
        self.packed = False
        self.model.set_attn_implementation("eager")
        self.info = replace(self.info, details={**self.info.details, "packing": f"off: {reason}"})


def _find_beginnings(rendering: Rendering, branch: Branch) -> tuple[str, ...]:
    """Labels of a set whose tokens begin another label: only the end of the turn tells them apart."""
    if branch.weigh == "text":
        return ()
    names = branch.tails
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
