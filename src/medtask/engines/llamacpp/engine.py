"""The `llamacpp` engine: exact scores from a GGUF file, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.decoding.preparation import find_common_prefix
from medtask.engines.decoding.scheduler import Scheduler, SequenceCallback
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.llamacpp.context import MAX_SEQUENCES, LlamaContext
from medtask.engines.llamacpp.decoding import LlamaCppDecodingBackend
from medtask.engines.llamacpp.model_runner import LlamaCppModelRunner
from medtask.engines.llamacpp.tokenizer import GgufTokenizer
from medtask.engines.packed_engine import PackedEngine
from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.prompt_requests import PromptRequest, share_tokens
from medtask.engines.tokens.trie_scoring import score_branches
from medtask.records import BranchScores, Fault, Limits, Scores

# Maximum number of unshared tokens of the rows that are read together. A token is compared with all
# tokens of the context, so more of them are slower on a CPU.
CPU_BUDGET_TOKENS, GPU_BUDGET_TOKENS = 256, 2048
MAX_RUNNING = 64  # maximum number of rows generated together, and the largest batch of callers
TRIE_RESERVE_TOKENS = 1024  # additional tokens for further levels of the tries


class LlamaCppEngine(PackedEngine):
    """Scores and generates with a GGUF file.

    Args:
        model: A llama_cpp.llama_model_p, which this engine frees.
        max_cells: Maximum number of tokens whose keys and values fit into memory.
    """

    max_sequences = MAX_SEQUENCES // 2  # the other half is for the nodes of the tries

    def __init__(
        self,
        model: Any,
        context: LlamaContext,
        tokenizer: GgufTokenizer,
        info: EngineInfo,
        *,
        max_input_tokens: int,
        max_cells: int,
    ) -> None:
        self.model = model
        self.info = info
        self.budget_tokens = GPU_BUDGET_TOKENS if context.offload else CPU_BUDGET_TOKENS
        self.chat = detect_chat_format(tokenizer)
        self.max_input_tokens = self.context_tokens = max_input_tokens
        self.max_cells = max_cells
        self.caps = Caps(
            score="exact", generate=True, schema=True, thinking_markers=self.chat.thinking.is_native
        )
        self.runner = LlamaCppModelRunner(context)
        self._tokenizer = tokenizer

    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        own_tokens = sum(request.count_own_tokens(shared_tokens) for request in pack)
        prefix_tokens_read = self.runner.cache_prefix(
            pack[0].paths[0][:shared_tokens],
            min(own_tokens + TRIE_RESERVE_TOKENS, self.max_cells - shared_tokens),
        )
        scored = self._score_requests(pack)
        trie_tokens = max(0, self.runner.tokens_read - own_tokens)
        ms = (time.perf_counter() - start) * 1000 / (own_tokens + trie_tokens + prefix_tokens_read)
        shares = share_tokens(trie_tokens, len(pack))
        shares[0] += prefix_tokens_read  # counted for the row for which the prefix was read
        for request, branches, share in zip(pack, scored, shares, strict=True):
            tokens = request.count_own_tokens(shared_tokens) + share
            yield Scores(
                request.prompt.record_id,
                branches,
                tokens,
                request.unshared_tokens - request.count_own_tokens(shared_tokens),
                ms * tokens,
            )

    def decode(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        start = time.perf_counter()
        prefix = find_common_prefix(seqs)
        longest = max(seq.prompt_length for seq in seqs) - len(prefix) + limits.max_tokens
        max_running = max(
            1,
            min(
                MAX_RUNNING, MAX_SEQUENCES - 1, len(seqs), (self.max_cells - len(prefix)) // longest
            ),
        )
        seqs[0].tokens_read += self.runner.cache_prefix(prefix, max_running * longest)
        seqs[0].ms += (time.perf_counter() - start) * 1000
        backend = LlamaCppDecodingBackend(self.runner.context, len(prefix), max_running)
        yield from Scheduler(backend, sorted(seqs, key=lambda seq: -seq.prompt_length)).run(
            on_update
        )

    def get_eos_token_ids(self) -> Sequence[int | None]:
        return tuple(self._tokenizer.eos_token_ids)

    def score_reference(self, tokenized_branches: Sequence[TokenizedBranch]) -> list[BranchScores]:
        longest = max(
            len(tokenized.prefix_tokens) + tokenized.max_candidate_tokens
            for tokenized in tokenized_branches
        )
        self.runner.cache_prefix((), longest + TRIE_RESERVE_TOKENS)
        return [
            score_branches([tokenized], self.runner.compute_logits_separately)[0]
            for tokenized in tokenized_branches
        ]

    def close(self) -> None:
        self.runner.context.close()
        if self.model is not None:
            llama_cpp.llama_model_free(self.model)
            self.model = None

    def _score_requests(self, pack: Sequence[PromptRequest]) -> list[tuple[BranchScores, ...]]:
        self.runner.tokens_read = 0
        tokenized_branches = [
            tokenized for request in pack for tokenized in request.tokenized_branches
        ]
        scores = iter(
            score_branches(tokenized_branches, self.runner.compute_logits)
            if self.packed
            else self.score_reference(tokenized_branches)
        )
        found = [tuple(next(scores) for _ in request.tokenized_branches) for request in pack]
        self.runner.drop_sequences()
        return found
