"""The `mlx` engine: exact scores with mlx-lm on Apple silicon or, slowly, on any CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.decoding.preparation import find_common_prefix
from medtask.engines.decoding.scheduler import Scheduler, SequenceCallback
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.mlx.decoding import MlxDecodingBackend, translate_errors
from medtask.engines.mlx.model_runner import BUDGET_TOKENS, MAX_BATCH_ROWS, MlxModelRunner
from medtask.engines.packed_engine import PackedEngine
from medtask.engines.tokens.chat import TokenizedBranch, count_common_prefix
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.prompt_requests import PromptRequest, share_tokens
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.engines.tokens.trie_scoring import LogprobQuery, score_branches
from medtask.records import BranchScores, Fault, Limits, Scores


class MlxEngine(PackedEngine):
    """Scores and generates with a model of mlx-lm.

    Args:
        model: The model as loaded by mlx-lm.
        tokenizer: The tokenizer as loaded by transformers.
        max_input_tokens: Longest input that the model reads.
        eos_token_ids: Tokens that end a text according to the model's settings.
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
        self._eos_token_ids = eos_token_ids
        self.caps = Caps(
            score="exact",
            generate=True,
            schema=bool(tokenizer.is_fast),
            thinking_markers=self.chat.thinking.is_native,
            batch_invariant=info.identity["dtype"] == "float32",
        )

    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        self.runner.tokens_read = 0
        with translate_errors():
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
        ms = (time.perf_counter() - start) * 1000
        shares = share_tokens(self.runner.tokens_read, len(pack))
        for request, tokens in zip(pack, shares, strict=True):
            branches = tuple(next(scores) for _ in request.tokenized_branches)
            yield Scores(
                request.prompt.record_id,
                branches,
                tokens,
                max(0, request.unshared_tokens - tokens),
                ms / len(pack),
            )

    def decode(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        ordered = sorted(seqs, key=lambda seq: -seq.prompt_length)
        prefix: tuple[int, ...] = ()
        if self.runner.batched:
            start = time.perf_counter()
            prefix = find_common_prefix(seqs)
            with translate_errors():
                ordered[0].tokens_read += self.runner.cache_prefix(prefix)
            ordered[0].ms += (time.perf_counter() - start) * 1000
        backend = MlxDecodingBackend(self.runner, len(prefix), limits.max_tokens)
        yield from Scheduler(backend, ordered).run(on_update)

    def get_eos_token_ids(self) -> Sequence[int | None]:
        return self._eos_token_ids

    def count_logits(self) -> int:
        return int(self.runner.model(mx.array([[0]])).shape[-1])

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


def _find_row_prefixes(pack: Sequence[PromptRequest], shared_tokens: int) -> list[tuple[int, ...]]:
    """The tokens that the branches of each row share; each branch keeps at least the token after
    which its answer begins.
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
