"""Writing: from prompts to texts, many at once where the model lets us, one by one where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from medtask.engines.decoding.constraints import ConstraintFactory
from medtask.engines.decoding.generation import SequenceCallback, generate_texts
from medtask.engines.decoding.preparation import create_sequences, find_stop_conditions
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.hf.memory import free_memory, is_out_of_memory, measure_kv_budget_bytes
from medtask.engines.hf.model_runner import HfModelRunner
from medtask.engines.hf.reference_generation import generate_reference
from medtask.engines.hf.scheduler import HfScheduler, measure_token_bytes
from medtask.engines.tokens.chat import ChatFormat
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt

MAX_RUNNING = (
    64  # all that callers hand over together; half as many were a third slower on two cores
)


class HfGenerator:
    """A model that writes. ``max_input_tokens``: tokens that it reads at most; ``max_running``:
    rows that it writes at once at most, and ``kv_budget_bytes``: bytes that their keys and
    values may take.
    """

    def __init__(
        self, model: Any, chat: ChatFormat, runner: HfModelRunner, max_input_tokens: int
    ) -> None:
        self.model = model
        self.chat = chat
        self.reader = runner
        self.limit = max_input_tokens
        self.max_running = MAX_RUNNING
        self.kv_budget_bytes: int | None = None
        self._token_bytes = 0
        self._constraint_factory: ConstraintFactory | None = None

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str],
        on_text: Callable[[str], None] | None,
        budget_tokens: int | None,
    ) -> Iterator[Generated | Fault]:
        """See HfEngine.generate. ``budget_tokens``: tokens of one forward pass; None: row by
        row, by transformers' own means.
        """

        def create() -> Sequence[DecodingSequence]:
            return create_sequences(
                self.chat,
                prompts,
                limits,
                self.find_stop_conditions(limits),
                self.limit,
                self._get_constraint_factory,
            )

        def decode(
            seqs: Sequence[DecodingSequence], on_update: SequenceCallback
        ) -> Iterator[DecodingSequence]:
            return (
                self._generate_reference(seqs, limits, on_update)
                if budget_tokens is None
                else self._generate_batched(seqs, limits, budget_tokens, on_update)
            )

        return generate_texts(prompts, cached, on_text, create, decode)

    def find_stop_conditions(self, limits: Limits) -> StopConditions:
        """What ends a text by itself, by the model's own settings too."""
        eos_setting = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return find_stop_conditions(
            self.chat, limits, eos_setting if isinstance(eos_setting, list) else [eos_setting]
        )

    def _get_constraint_factory(self) -> ConstraintFactory:
        self._constraint_factory = self._constraint_factory or ConstraintFactory(
            self.chat.tokenizer,
            len(self.reader.head.weight),
            self.find_stop_conditions(Limits(1)).token_ids,
        )
        return self._constraint_factory

    def _generate_reference(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        for seq in seqs:
            start = time.perf_counter()
            seq.start_timer()
            generate_reference(self.model, seq, limits.max_tokens, on_update)
            seq.ms += (time.perf_counter() - start) * 1000
            yield seq

    def _generate_batched(
        self,
        seqs: Sequence[DecodingSequence],
        limits: Limits,
        budget_tokens: int,
        on_update: SequenceCallback,
    ) -> Iterator[DecodingSequence]:
        if not seqs:
            return
        row_bytes = self._measure_row_bytes(
            max(len(seq.tokens) for seq in seqs) + limits.max_tokens
        )
        scheduler = HfScheduler(
            self.reader,
            seqs,
            max(1, min(self.max_running, (self.kv_budget_bytes or 0) // row_bytes, len(seqs))),
            budget_tokens,
        )
        while scheduler.running or scheduler.waiting:
            try:
                scheduler.step()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise EngineError(
                        f"the model failed while it wrote ({type(error).__name__})",
                        fix="run `medtask doctor --model` with this model",
                    ) from error
                failed = scheduler.preempt_all()
                free_memory()
                if failed:
                    failed.fail(f"out of memory on this row alone ({len(failed.tokens):,} tokens)")
                    yield failed
                else:
                    self.kv_budget_bytes = scheduler.rows * row_bytes
                continue
            for seq in scheduler.running[:1]:
                on_update(seq)
            yield from scheduler.pop_finished()

    def _measure_row_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of so many tokens. The first call finds out what a token
        takes, and what there is.
        """
        self._token_bytes = self._token_bytes or measure_token_bytes(self.reader)
        self.kv_budget_bytes = (
            measure_kv_budget_bytes(self.model)
            if self.kv_budget_bytes is None
            else self.kv_budget_bytes
        )
        return self._token_bytes * tokens
