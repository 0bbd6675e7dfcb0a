"""Text generation with packed attention: rows in slots, extended by one token per pass."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtask.engines.decoding.preparation import find_common_prefix
from medtask.engines.decoding.scheduler import OutOfKvMemoryError, StepOutput
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.hf.attention import run_forward_pass
from medtask.engines.hf.kv_slots import DecodePass, KvSlots
from medtask.engines.hf.model_runner import HfModelRunner
from medtask.engines.hf.packed_attention import KvCache, Segment, build_pass
from medtask.errors import EngineError
from medtask.hardware import free_memory, is_out_of_memory


class TorchLogits:
    """Logits on the model's device. Implements token_selection.NextTokenLogits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def vocabulary_size(self) -> int:
        return self.logits.shape[1]

    @torch.inference_mode()
    def mask(self, allowed: NDArray[np.bool_]) -> TorchLogits:
        blocked = ~torch.from_numpy(allowed).to(self.logits.device)
        return TorchLogits(self.logits.masked_fill(blocked, -torch.inf))

    def argmax(self) -> list[int]:
        tokens: list[int] = self.logits.argmax(dim=-1).tolist()
        return tokens

    def to_numpy(self) -> NDArray[np.floating]:
        logits: NDArray[np.floating] = self.logits.cpu().numpy()
        return logits

    @torch.inference_mode()
    def compute_logprobs(self, tokens: Sequence[int]) -> list[float]:
        index = torch.tensor(tokens, device=self.logits.device)[:, None]
        own = self.logits.gather(1, index)[:, 0] - torch.logsumexp(self.logits, dim=-1)
        logprobs: list[float] = own.tolist()
        return logprobs


class HfDecodingBackend:
    """Implements scheduler.DecodingBackend.

    ``budget_tokens`` limits the tokens of one pass, ``longest_tokens`` those of a row with its
    text.
    """

    # A pass for a single row costs almost as much as a pass for many.
    refill_fraction = 1 / 8
    # A failed pass has updated some layers and not others.
    keeps_rows_after_failure = False

    def __init__(
        self,
        runner: HfModelRunner,
        seqs: Sequence[DecodingSequence],
        max_running: int,
        budget_tokens: int,
        longest_tokens: int,
    ) -> None:
        self.max_running = max_running
        self._runner = runner
        self._budget_tokens = budget_tokens
        self._longest_tokens = longest_tokens
        self._prefix_length = runner.choose_prefix_length(find_common_prefix(seqs), len(seqs))
        self._prefix_cache = KvCache()
        self._rows: list[DecodingSequence] = []  # by slot
        self._slots = KvSlots(max_running)

    def can_admit(self, admitted: Sequence[DecodingSequence], seq: DecodingSequence) -> bool:
        tokens = sum(len(one.tokens) - self._prefix_length for one in (*admitted, seq))
        return tokens <= self._budget_tokens

    @torch.inference_mode()
    def step(self, admitted: Sequence[DecodingSequence]) -> StepOutput:
        """Read the admitted rows; without any, one token of each running row."""
        with self._runner.use_frequencies(self._longest_tokens):
            seqs, hidden, tokens_read = self._read(admitted)
        return StepOutput(seqs, tokens_read, TorchLogits(self._runner.head.compute_logits(hidden)))

    def _read(
        self, admitted: Sequence[DecodingSequence]
    ) -> tuple[list[DecodingSequence], Tensor, list[int]]:
        """The rows of a step, their last hidden states, and the number of tokens read for each."""
        if admitted:
            seqs = list(admitted)
            hidden, tokens_read = self._prefill(seqs)
            self._rows += seqs
        else:
            seqs, tokens_read = list(self._rows), [1] * len(self._rows)
            forward_pass = DecodePass(
                [seq.tokens[-1] for seq in seqs],
                self._slots,
                self._prefix_cache,
                self._runner.device,
            )
            hidden = run_forward_pass(self._runner.decoder, forward_pass)
        return seqs, hidden, tokens_read

    @torch.inference_mode()
    def release(self, seqs: Sequence[DecodingSequence]) -> None:
        dropped = set(map(id, seqs))
        if all(id(seq) in dropped for seq in self._rows):
            self._rows, self._slots = [], KvSlots(self.max_running)
            return
        for slot in reversed(range(len(self._rows))):
            if id(self._rows[slot]) in dropped:
                self._slots.release(slot)
                self._rows[slot] = self._rows[-1]
                self._rows.pop()

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise EngineError(
                    f"the model failed while it generated text ({type(error).__name__})",
                    fix="run `medtask doctor --model` with this model",
                ) from error
        else:
            return
        # Outside the except block, where the failed pass's tensors are freed.
        self._rows, self._slots = [], KvSlots(self.max_running)
        free_memory()
        raise OutOfKvMemoryError

    def _prefill(self, seqs: Sequence[DecodingSequence]) -> tuple[Tensor, list[int]]:
        """Read rows into slots; returns their last hidden states [rows, hidden size], and the
        number of tokens read for each.
        """
        prefix = tuple(seqs[0].tokens[: self._prefix_length])
        prefix_tokens_read = self._runner.cache_prefix(prefix)
        # Kept here: the runner may cache another prefix before the last row is finished.
        self._prefix_cache = self._runner.prefix_cache
        cache = KvCache()
        group_prefixes, group_prefix_reads = self._prefill_group_prefixes(seqs, cache)
        own = [
            seq.tokens[self._prefix_length + len(shared) :]
            for seq, shared in zip(seqs, group_prefixes, strict=True)
        ]
        segments = [
            Segment(tokens, shared) for tokens, shared in zip(own, group_prefixes, strict=True)
        ]
        forward_pass = build_pass(segments, self._prefix_cache, cache, self._runner.device)
        hidden = run_forward_pass(self._runner.decoder, forward_pass)[forward_pass.last_indices]
        self._slots.admit(
            [
                [*shared, *forward_pass.token_indices(row)]
                for row, shared in enumerate(group_prefixes)
            ],
            cache,
        )
        read = [len(tokens) + more for tokens, more in zip(own, group_prefix_reads, strict=True)]
        read[0] += prefix_tokens_read  # counted for the row for which the prefix was read
        for seq, tokens in zip(seqs, read, strict=True):
            seq.tokens_reused += max(0, len(seq.tokens) - tokens)
        return hidden, read

    def _prefill_group_prefixes(
        self, seqs: Sequence[DecodingSequence], cache: KvCache
    ) -> tuple[list[list[int]], list[int]]:
        """Read the tokens that rows of one group share after the prefix; returns for each row the
        indices of those tokens, and the number of tokens that count as read for it.
        """
        groups: dict[Hashable, list[int]] = {}
        for row, seq in enumerate(seqs):
            groups.setdefault(seq.group_key, []).append(row)
        shared = {
            group: len(find_common_prefix([seqs[row] for row in rows]))
            for group, rows in groups.items()
            if len(rows) > 1
        }
        longer = {
            group: groups[group] for group, tokens in shared.items() if tokens > self._prefix_length
        }
        group_prefixes: list[list[int]] = [[] for _ in seqs]
        read_counts = [0] * len(seqs)
        if not longer:
            return group_prefixes, read_counts
        segments = [
            Segment(seqs[rows[0]].tokens[self._prefix_length : shared[group]])
            for group, rows in longer.items()
        ]
        forward_pass = build_pass(segments, self._prefix_cache, cache, self._runner.device)
        run_forward_pass(self._runner.decoder, forward_pass)
        for number, rows in enumerate(longer.values()):
            read_counts[rows[0]] = len(segments[number].tokens)
            for row in rows:
                group_prefixes[row] = forward_pass.token_indices(number)
        return group_prefixes, read_counts


def measure_token_bytes(runner: HfModelRunner) -> int:
    """Bytes of one token's keys and values, measured in a pass: layers may differ or share them."""
    cache = KvCache()
    forward_pass = build_pass([Segment((0,))], KvCache(), cache, runner.device)
    run_forward_pass(runner.decoder, forward_pass)
    return sum(side.nbytes for sides in cache.layers.values() for side in sides)


def order_by_group(seqs: Sequence[DecodingSequence]) -> list[DecodingSequence]:
    """Sort rows by group, the longest first within and between groups, so that an out-of-memory
    error occurs at the start or not at all.
    """
    groups: dict[Hashable, list[DecodingSequence]] = {}
    for seq in sorted(seqs, key=lambda seq: -len(seq.tokens)):
        groups.setdefault(seq.group_key, []).append(seq)
    return [seq for group in groups.values() for seq in group]
