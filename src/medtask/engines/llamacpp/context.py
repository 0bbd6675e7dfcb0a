"""A llama.cpp context whose sequences share common tokens and are read in batches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from medtask.errors import EngineError

MAX_SEQUENCES = 256  # llama.cpp's maximum; the first one holds the shared prefix
MAX_BATCH_TOKENS = 2048  # tokens of one call of llama_decode
# Tokens of one pass through the model: more costs memory without a speed-up on a CPU
MAX_UBATCH_TOKENS = 512
NO_KV_SLOT = 1  # llama_decode: no room for the batch's keys and values


class ContextFullError(Exception):
    """The keys and values of a batch do not fit into the context."""


@dataclass(frozen=True, slots=True)
class BatchToken:
    """One token of a batch. ``sequence_ids`` are all sequences that the token belongs to."""

    token_id: int
    position: int
    sequence_ids: tuple[int, ...]
    needs_logits: bool = False


class LlamaContext:
    """A context for ``cells`` tokens, the keys and values of all sequences together. ``reserve``
    enlarges it.
    """

    def __init__(
        self,
        model: Any,
        vocabulary_size: int,
        *,
        cells: int,
        threads: int,
        offload: bool,
        adapter: Any = None,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary_size
        self.threads = threads
        self.offload = offload
        self.adapter = adapter
        self.cells = 0
        self._context: Any = None
        self._create_context(cells)

    def reserve(self, cells: int) -> bool:
        """Make room for ``cells`` tokens; True if all sequences were dropped to do so."""
        if cells <= self.cells:
            return False
        size = 1 << (cells - 1).bit_length()
        self._create_context(size)
        return True

    def decode(self, tokens: Sequence[BatchToken]) -> NDArray[np.float32]:
        """Read tokens, each after the tokens of its sequences.

        Returns:
            The logits [tokens that need them, vocabulary], in order.

        Raises:
            ContextFullError: There is no room; no token of the last batch was read.
        """
        logits = np.empty(
            (sum(token.needs_logits for token in tokens), self.vocabulary), dtype=np.float32
        )
        row = 0
        for start in range(0, len(tokens), MAX_BATCH_TOKENS):
            part = tokens[start : start + MAX_BATCH_TOKENS]
            self._decode(part)
            for place, token in enumerate(part):
                if token.needs_logits:
                    found = llama_cpp.llama_get_logits_ith(self._context, place)
                    logits[row] = np.ctypeslib.as_array(found, shape=(self.vocabulary,))
                    row += 1
        return logits

    def copy_sequence(self, source: int, target: int) -> None:
        """Copy a sequence's tokens to another one, without reading tokens or moving memory."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def drop_sequence(self, sequence: int) -> None:
        """Drop a sequence; tokens shared with other sequences are kept."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear(self) -> None:
        """Drop all sequences."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        if self._context is not None:
            llama_cpp.llama_free(self._context)
            self._context = None

    @property
    def _memory(self) -> Any:
        return llama_cpp.llama_get_memory(self._context)

    def _create_context(self, cells: int) -> None:
        self.close()
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = cells
        settings.n_batch = MAX_BATCH_TOKENS
        settings.n_ubatch = MAX_UBATCH_TOKENS
        settings.n_seq_max = MAX_SEQUENCES
        settings.n_threads = settings.n_threads_batch = self.threads
        # One buffer for all sequences: only then can a token belong to several sequences without a
        # copy.
        settings.kv_unified = True
        # For models with a sliding window llama.cpp drops the tokens outside it by default, and the
        # shared prefix with them.
        settings.swa_full = True
        # On a CPU flash attention accumulates in float16: probabilities of the built-in model
        # changed by 0.06, and by 0.007 without it.
        kind = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
            if self.offload
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        settings.flash_attn_type = kind
        settings.offload_kqv = settings.op_offload = self.offload
        settings.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self._context:
            self.cells = 0
            raise EngineError(
                f"llama.cpp has no memory for a context of {cells:,} tokens",
                fix="close other programs, or take a smaller model",
            )
        self.cells = cells
        if self.adapter is not None:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self.adapter)
            llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))

    def _decode(self, tokens: Sequence[BatchToken]) -> None:
        batch, _kept = _make_batch(tokens)
        code = llama_cpp.llama_decode(self._context, batch)
        if code == NO_KV_SLOT:
            raise ContextFullError
        if code != 0:
            raise EngineError(
                f"llama.cpp failed on a batch (llama_decode: {code})",
                fix="run `medtask doctor --model` with this model",
            )


def _make_batch(tokens: Sequence[BatchToken]) -> tuple[Any, tuple[NDArray[Any], ...]]:
    """A llama_batch over numpy arrays, which must stay alive as long as the batch."""
    count = len(tokens)
    ids = np.fromiter((token.token_id for token in tokens), np.int32, count)
    positions = np.fromiter((token.position for token in tokens), np.int32, count)
    wanted = np.fromiter((token.needs_logits for token in tokens), np.int8, count)
    sizes = np.fromiter((len(token.sequence_ids) for token in tokens), np.int32, count)
    sequences = np.fromiter(
        (sequence for token in tokens for sequence in token.sequence_ids),
        np.int32,
        int(sizes.sum()),
    )
    starts = np.zeros(count, dtype=np.uintp)
    starts[1:] = np.cumsum(sizes[:-1], dtype=np.uintp)
    pointers = sequences.ctypes.data + starts * sequences.itemsize
    batch = llama_cpp.llama_batch(
        n_tokens=count,
        token=ids.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
        embd=None,
        pos=positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
        n_seq_id=sizes.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
        seq_id=pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(llama_cpp.llama_seq_id))),
        logits=wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )
    return batch, (ids, positions, wanted, sizes, sequences, pointers)
