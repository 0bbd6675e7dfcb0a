"""The `hf` engine: any causal language model that transformers can load, asked exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.hf.generate import Writer
from medtask.engines.hf.head import read_head
from medtask.engines.hf.memory import free_memory, is_out_of_memory
from medtask.engines.hf.pack import ATTENTION, attend
from medtask.engines.hf.plain import score_plainly
from medtask.engines.hf.reader import Reader
from medtask.engines.packed import PackedEngine
from medtask.engines.tokens.batch import Unit
from medtask.engines.tokens.chat import Question, read_chat
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.errors import EngineError
from medtask.records import BranchScores, Fault, Generated, Limits, Prompt, Scores, Status

SMALLEST_BUDGET = 64


class HfEngine(PackedEngine):
    """``model`` and ``tokenizer`` as transformers loads them; ``budget``: tokens of one forward
    pass.
    """

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

    def score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        return self._score_packed(pack, shared) if self.packed else self._score_apart(pack)

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        """See Engine.generate. A text begins with its first character that is not blank, unless it
        goes on in the middle of something written, and ends with its last one; a loop's text ends
        with its first round. Known rows are written too where another is not: what stands beside a
        row decides the last digits of its numbers.
        """
        return self.writer.write(
            prompts, limits, known, on_text, self.budget if self.packed else None
        )

    def close(self) -> None:
        del self.model, self.reader, self.writer
        free_memory()

    def _score_packed(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        """One pack; where memory does not hold it, its halves, and smaller packs from then on."""
        try:
            yield from self._read_pack(pack, shared)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise EngineError(
                    f"the model failed on a batch ({type(error).__name__})",
                    fix="run `medtask doctor --model` with this model",
                ) from error
        free_memory()
        if len(pack) == 1:
            reason = f"out of memory on this row alone ({pack[0].own_tokens(shared):,} tokens)"
            yield Fault(pack[0].prompt.record_id, Status.FAILED, reason)
            return
        self.budget = max(
            SMALLEST_BUDGET, min(self.budget, sum(unit.own_tokens(shared) for unit in pack)) // 2
        )
        middle = len(pack) // 2
        yield from self._score_packed(pack[:middle], shared)
        yield from self._score_packed(pack[middle:], shared)

    def _read_pack(self, pack: Sequence[Unit], shared: int) -> list[Scores]:
        start = time.perf_counter()
        fresh = self.reader.keep_prefix(pack[0].paths[0][:shared])
        read = self.reader.read([unit.questions for unit in pack], self.budget)
        ms_per_token = (
            (time.perf_counter() - start) * 1000 / (sum(tokens for _, tokens in read) + fresh)
        )
        results: list[Scores] = []
        for unit, (branches, tokens) in zip(pack, read, strict=True):
            first = fresh if not results else 0  # the row for which the prefix was read pays for it
            reused = unit.asked_apart - unit.own_tokens(shared) - first
            results.append(
                Scores(
                    unit.prompt.record_id,
                    branches,
                    tokens + first,
                    reused,
                    (tokens + first) * ms_per_token,
                )
            )
        return results

    def _score_apart(self, pack: Sequence[Unit]) -> Iterator[Scores]:
        for unit in pack:
            start = time.perf_counter()
            branches, tokens = zip(
                *(score_plainly(self.model, question) for question in unit.questions), strict=True
            )
            yield Scores(
                unit.prompt.record_id,
                branches,
                sum(tokens),
                ms=(time.perf_counter() - start) * 1000,
            )

    def score_plainly(self, questions: Sequence[Question]) -> list[BranchScores]:
        self.model.set_attn_implementation("eager")
        try:
            return [score_plainly(self.model, question)[0] for question in questions]
        finally:
            if self.packed:
                self.model.set_attn_implementation(ATTENTION)

    def give_up_packing(self, reason: str) -> None:
        super().give_up_packing(reason)
        self.model.set_attn_implementation("eager")


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
    limits = [
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
        tokenizer.model_max_length,
    ]
    return int(min(limit for limit in limits if limit))
