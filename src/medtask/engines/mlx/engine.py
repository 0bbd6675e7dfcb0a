"""The `mlx` engine: models on Apple silicon (and, slowly, on any CPU) through mlx-lm, asked
exactly.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.decoding.constraints import ConstraintFactory
from medtask.engines.decoding.generation import SequenceCallback, generate_texts
from medtask.engines.decoding.preparation import (
    create_sequences,
    find_common_prefix,
    find_stop_conditions,
)
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import advance_sequences
from medtask.engines.mlx.model_runner import (
    BUDGET_TOKENS,
    MAX_BATCH_ROWS,
    MlxModelRunner,
    split_rows,
)
from medtask.engines.packed_engine import PackedEngine
from medtask.engines.tokens.chat import TokenizedBranch, count_common_prefix, detect_chat_format
from medtask.engines.tokens.prompt_requests import PromptRequest
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.engines.tokens.trie_scoring import LogprobQuery, score_branches
from medtask.errors import EngineError
from medtask.records import BranchScores, Fault, Generated, Limits, Prompt, Scores


class MlxEngine(PackedEngine):
    """``model`` as mlx-lm and ``tokenizer`` as transformers loads it; ``max_input_tokens``:
    tokens that it reads at most; ``eos_token_ids``: the tokens that end a text by the model's
    own settings.
    """

    max_sequences = MAX_BATCH_ROWS

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        info: EngineInfo,
        *,
        max_input_tokens: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self.runner = MlxModelRunner(model)
        self.info = info
        self.budget_tokens = BUDGET_TOKENS
        self.chat = detect_chat_format(HfTokenizer(tokenizer))
        self.max_input_tokens = self.context_tokens = max_input_tokens
        self.ends = eos_token_ids
        self.caps = Caps(
            score="exact",
            generate=True,
            schema=bool(tokenizer.is_fast),
            thinking_markers=self.chat.thinking.is_native,
            batch_invariant=info.identity["dtype"] == "float32",
        )
        self._constraint_factory: ConstraintFactory | None = None

    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        self.runner.tokens_read = 0
        with _translate_errors():
            if self.runner.batched:
                self.runner.cache_prefix(pack[0].paths[0][:shared_tokens])
                self.runner.compute_logits(
                    [LogprobQuery(0, prefix) for prefix in _find_row_prefixes(pack, shared_tokens)]
                )
            scores = iter(
                score_branches(
                    [tokenized for request in pack for tokenized in request.tokenized_branches],
                    self.runner.compute_logits,
                )
            )
        tokens_read, ms = self.runner.tokens_read, (time.perf_counter() - start) * 1000
        for place, request in enumerate(pack):
            # Shared out evenly; the first row pays for what is left over.
            tokens = tokens_read // len(pack) + (tokens_read % len(pack) if place == 0 else 0)
            branches = tuple(next(scores) for _ in request.tokenized_branches)
            yield Scores(
                request.prompt.record_id,
                branches,
                tokens,
                max(0, request.unshared_tokens - tokens),
                ms / len(pack),
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        def create() -> Sequence[DecodingSequence]:
            return create_sequences(
                self.chat,
                prompts,
                limits,
                find_stop_conditions(self.chat, limits, self.ends),
                self.max_input_tokens,
                self._get_constraint_factory,
            )

        def decode(
            seqs: Sequence[DecodingSequence], on_update: SequenceCallback
        ) -> Iterator[DecodingSequence]:
            with _translate_errors():
                yield from self._decode(seqs, limits.max_tokens, on_update) if seqs else ()

        return generate_texts(prompts, cached, on_text, create, decode)

    def score_reference(self, tokenized_branches: Sequence[TokenizedBranch]) -> list[BranchScores]:
        return score_branches(
            tokenized_branches,
            lambda readings: [self.runner.compute_logits_uncached(reading) for reading in readings],
        )

    def disable_packing(self, reason: str) -> None:
        super().disable_packing(reason)
        self.runner.batched = False

    def close(self) -> None:
        del self.runner
        mx.clear_cache()

    def _get_constraint_factory(self) -> ConstraintFactory:
        if self._constraint_factory is None:
            vocabulary = self.runner.model(mx.array([[0]])).shape[-1]
            self._constraint_factory = ConstraintFactory(
                self.chat.tokenizer,
                vocabulary,
                find_stop_conditions(self.chat, Limits(1), self.ends).token_ids,
            )
        return self._constraint_factory

    def _decode(
        self, seqs: Sequence[DecodingSequence], max_tokens: int, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        """Rows in batches, the longest first; those that are done leave their batch."""
        ordered = sorted(seqs, key=lambda seq: -seq.prompt_length)
        if not self.runner.batched:
            for seq in ordered:
                yield from self._decode_batch([seq], 0, on_update)
            return
        start = time.perf_counter()
        prefix = find_common_prefix(seqs)
        ordered[0].tokens_read += self.runner.cache_prefix(prefix)
        ordered[0].ms += (time.perf_counter() - start) * 1000
        for part in split_rows([seq.prompt_length for seq in ordered], len(prefix), max_tokens):
            yield from self._decode_batch(ordered[part], len(prefix), on_update)

    def _decode_batch(
        self, running: list[DecodingSequence], shared_tokens: int, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        start = time.perf_counter()
        for seq in running:
            seq.start_timer()
            seq.tokens_read += seq.prompt_length - shared_tokens
            seq.tokens_reused += shared_tokens
        caches, found = self.runner.prefill_rows(
            [tuple(seq.tokens) for seq in running], [1] * len(running)
        )
        logits = np.concatenate(found)
        while True:
            advance_sequences(running, logits)
            now = time.perf_counter()
            for seq in running:
                seq.ms += (now - start) * 1000 / len(running)
            start = now
            on_update(running[0])
            yield from (seq for seq in running if seq.is_finished)
            left = [place for place, seq in enumerate(running) if not seq.is_finished]
            if not left:
                return
            if len(left) < len(running):
                for cache in caches:
                    cache.filter(left)
            running = [running[place] for place in left]
            logits = self.runner.decode_step(caches, [seq.tokens[-1] for seq in running])
            for seq in running:
                seq.tokens_read += 1


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise EngineError(
            f"the model failed on a batch ({type(error).__name__})",
            fix="close other programs, or take a smaller or a quantised model",
        ) from error


def _find_row_prefixes(pack: Sequence[PromptRequest], shared_tokens: int) -> list[tuple[int, ...]]:
    """What the questions of a row have in common beyond what all rows share; each keeps the token
    behind which its answer begins.
    """
    row_prefixes = []
    for request in pack:
        common_tokens = min(
            count_common_prefix(request.paths),
            *(tokenized.answer_position for tokenized in request.tokenized_branches),
        )
        if len(set(request.paths)) > 1 and common_tokens > shared_tokens:
            row_prefixes.append(request.paths[0][:common_tokens])
    return row_prefixes
