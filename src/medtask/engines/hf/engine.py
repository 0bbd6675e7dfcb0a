"""The `hf` engine: exact scores from causal language models loaded with transformers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from medtask.engines.base import BatchSetting, Caps, EngineInfo
from medtask.engines.decoding.scheduler import Scheduler, SequenceCallback
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.hf.attention import ATTENTION, compute_attention
from medtask.engines.hf.decoding import HfDecodingBackend, measure_token_bytes, order_by_group
from medtask.engines.hf.kv_slots import measure_kv_budget_bytes
from medtask.engines.hf.linear_layers import install_onednn_linear
from medtask.engines.hf.lm_head import get_lm_head
from medtask.engines.hf.long_rope import LongRope
from medtask.engines.hf.model_runner import HfModelRunner
from medtask.engines.hf.network_model import find_decoder
from medtask.engines.hf.reference import generate_reference, score_branch_reference
from medtask.engines.packed_engine import PackedEngine
from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.prompt_requests import PromptRequest
from medtask.engines.tokens.tokenizer import FileTokenizer, HfTokenizer
from medtask.errors import EngineError
from medtask.hardware import free_memory, is_out_of_memory
from medtask.networks.llama import LlamaNetwork
from medtask.records import BranchScores, Fault, Limits, Scores, Status

MIN_BUDGET_TOKENS = 64
# Maximum number of rows that are generated together, and the largest batch that callers pass. Half
# as many were a third slower on two cores.
MAX_RUNNING = 64


class HfEngine(PackedEngine):
    """Scores and generates with a causal language model of transformers.

    Args:
        model: The model as loaded by transformers, or a LlamaNetwork.
        tokenizer: The tokenizer as loaded by transformers, or a FileTokenizer.
        info: Name, revision and further facts about the model.
        budget_tokens: Maximum number of tokens of one forward pass.
    """

    scores_while_generating = True

    def __init__(self, model: Any, tokenizer: Any, info: EngineInfo, *, budget_tokens: int) -> None:
        self.model = model.eval()
        self.info = info
        self.budget_tokens = budget_tokens
        text = tokenizer if isinstance(tokenizer, FileTokenizer) else HfTokenizer(tokenizer)
        text.embedding_rows = _count_embeddings(model)
        self.chat = detect_chat_format(text)
        self.max_input_tokens = self.context_tokens = _find_context_length(model, tokenizer)
        self.caps = Caps(
            score="exact",
            generate=True,
            schema=bool(tokenizer.is_fast),
            thinking_markers=self.chat.thinking.is_native,
            batch_invariant=model.dtype == torch.float32,
        )
        self.runner = HfModelRunner(
            find_decoder(model), get_lm_head(model), model.device, LongRope(model)
        )
        self.max_running = MAX_RUNNING
        self.kv_budget_bytes: int | None = None
        self._token_bytes = 0
        self.packed = _install_packed_attention(model)
        install_onednn_linear(model)

    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        if not self.packed:
            return self._score_unpacked(pack)
        return itertools.chain.from_iterable(
            self._score_packed(part, shared_tokens)
            for part in self.runner.long_rope.split(pack, count_read_tokens)
        )

    def decode(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        if not self.packed:
            for seq in seqs:
                try:
                    generate_reference(self.model, seq, limits.max_tokens, on_update)
                except (MemoryError, RuntimeError) as error:
                    _require_out_of_memory(error)
                    seq.fail(_describe_memory(len(seq.tokens)))
                yield seq
            return
        for part in self.runner.long_rope.split(
            seqs, lambda seq: len(seq.tokens) + limits.max_tokens
        ):
            yield from self._decode_packed(part, limits, on_update)

    def _decode_packed(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        longest_tokens = max(len(seq.tokens) for seq in seqs) + limits.max_tokens
        row_bytes = self._measure_row_bytes(longest_tokens)
        max_running = max(
            1, min(self.max_running, (self.kv_budget_bytes or 0) // row_bytes, len(seqs))
        )
        backend = HfDecodingBackend(
            self.runner, seqs, max_running, self.budget_tokens, longest_tokens
        )
        try:
            yield from Scheduler(backend, order_by_group(seqs)).run(on_update)
        finally:
            if backend.max_running < max_running:  # memory ran out
                self.kv_budget_bytes = backend.max_running * row_bytes

    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting | None:
        if generates and self.packed:
            return BatchSetting("rows", self.max_running, (8, 16, 32, MAX_RUNNING))
        return super().get_batch_setting(generates=generates)

    def set_batch_size(self, size: int, *, generates: bool = False) -> None:
        if generates:
            self.max_running = size
        else:
            super().set_batch_size(size)

    def get_eos_token_ids(self) -> Sequence[int | None]:
        eos = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return eos if isinstance(eos, list) else [eos]

    def count_logits(self) -> int:
        return len(self.runner.head.weight)

    def close(self) -> None:
        del self.model, self.runner
        free_memory()

    def _measure_row_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of ``tokens`` tokens. The first call measures the bytes of a
        token and the limit for all rows together.
        """
        self._token_bytes = self._token_bytes or measure_token_bytes(self.runner)
        if self.kv_budget_bytes is None:
            self.kv_budget_bytes = measure_kv_budget_bytes(self.model)
        return self._token_bytes * tokens

    def _score_packed(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        """Score a pack; after an out-of-memory error, score its halves and use smaller packs."""
        try:
            yield from self._forward_pack(pack, shared_tokens)
            return
        except (MemoryError, RuntimeError) as error:
            _require_out_of_memory(error)
        free_memory()
        if len(pack) == 1:
            reason = _describe_memory(pack[0].count_own_tokens(shared_tokens))
            yield Fault(pack[0].prompt.record_id, Status.FAILED, reason)
            return
        pack_tokens = sum(request.count_own_tokens(shared_tokens) for request in pack)
        self.budget_tokens = max(MIN_BUDGET_TOKENS, min(self.budget_tokens, pack_tokens) // 2)
        middle = len(pack) // 2
        yield from self._score_packed(pack[:middle], shared_tokens)
        yield from self._score_packed(pack[middle:], shared_tokens)

    def _forward_pack(self, pack: Sequence[PromptRequest], shared_tokens: int) -> list[Scores]:
        start = time.perf_counter()
        prefix = pack[0].paths[0][:shared_tokens]
        with self.runner.use_frequencies(max(map(count_read_tokens, pack))):
            shared_tokens = self.runner.choose_prefix_length(prefix, len(pack))
            prefix_tokens_read = self.runner.cache_prefix(prefix[:shared_tokens])
            read = self.runner.score_requests(
                [request.tokenized_branches for request in pack], self.budget_tokens
            )
        total_tokens = sum(tokens for _, tokens in read) + prefix_tokens_read
        ms_per_token = (time.perf_counter() - start) * 1000 / total_tokens
        results: list[Scores] = []
        for request, (branches, tokens) in zip(pack, read, strict=True):
            # Counted for the row for which the prefix was read.
            first = 0 if results else prefix_tokens_read
            reused = request.unshared_tokens - request.count_own_tokens(shared_tokens) - first
            ms = (tokens + first) * ms_per_token
            results.append(Scores(request.prompt.record_id, branches, tokens + first, reused, ms))
        return results

    def _score_unpacked(self, pack: Sequence[PromptRequest]) -> Iterator[Scores | Fault]:
        for request in pack:
            try:
                result: Scores | Fault = self._score_alone(request)
            except (MemoryError, RuntimeError) as error:
                _require_out_of_memory(error)
                reason = _describe_memory(request.max_sequence_tokens)
                result = Fault(request.prompt.record_id, Status.FAILED, reason)
            yield result

    def _score_alone(self, request: PromptRequest) -> Scores:
        start = time.perf_counter()
        branches, tokens = zip(
            *(
                score_branch_reference(self.model, tokenized)
                for tokenized in request.tokenized_branches
            ),
            strict=True,
        )
        ms = (time.perf_counter() - start) * 1000
        return Scores(request.prompt.record_id, branches, sum(tokens), ms=ms)

    def score_reference(self, tokenized_branches: Sequence[TokenizedBranch]) -> list[BranchScores]:
        self.model.set_attn_implementation("eager")
        try:
            return [
                score_branch_reference(self.model, tokenized)[0] for tokenized in tokenized_branches
            ]
        finally:
            if self.packed:
                self.model.set_attn_implementation(ATTENTION)

    def disable_packing(self, reason: str) -> None:
        super().disable_packing(reason)
        self.model.set_attn_implementation("eager")


def _require_out_of_memory(error: MemoryError | RuntimeError) -> None:
    """Raise EngineError for an error of another kind."""
    if not is_out_of_memory(error):
        raise EngineError(
            f"the model failed on a batch ({type(error).__name__})",
            fix="run `medtask doctor --model` with this model",
        ) from error


def _describe_memory(tokens: int) -> str:
    return f"out of memory on this row alone ({tokens:,} tokens)"


def count_read_tokens(request: PromptRequest) -> int:
    """The tokens of a request's longest sequence without the last one, which is not read."""
    return request.max_sequence_tokens - 1


def _install_packed_attention(model: Any) -> bool:
    """Install packed attention; False if the model's code does not let attention be replaced."""
    if isinstance(model, LlamaNetwork):
        return True
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, compute_attention)
    try:
        model.set_attn_implementation(ATTENTION)
    except (ValueError, KeyError, AttributeError):
        return False
    return bool(model.config.get_text_config()._attn_implementation == ATTENTION)


def _count_embeddings(model: Any) -> int | None:
    """The number of tokens that a model has embeddings for; None if not known."""
    embeddings = (
        model.model.embed_tokens
        if isinstance(model, LlamaNetwork)
        else model.get_input_embeddings()
    )
    weight = getattr(embeddings, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _find_context_length(model: Any, tokenizer: Any) -> int:
    limits = [
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
        tokenizer.model_max_length,
    ]
    return int(min(limit for limit in limits if limit))
