"""The tokenizer of a GGUF file, through llama.cpp."""

from __future__ import annotations

import ctypes
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp

_ADDED_TOKEN = (
    llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)
# Splitters of tokenizers that normalise texts to NFC, which llama.cpp does not: decomposed accents,
# as macOS writes them, would be other tokens than those that the model knows.
_NFC_SPLITTERS = {"qwen2", "qwen35", "command-r"}
_MAX_TOKEN_BYTES = 4096  # bytes; the longest token of any known vocabulary has 200


class GgufTokenizer:
    """Implements Tokenizer.

    Args:
        model: A llama_cpp.llama_model_p, which the caller keeps alive.
        name: Name of the tokenizer.
        gguf_metadata: The file's metadata.
    """

    def __init__(self, model: Any, name: str, gguf_metadata: Mapping[str, str]) -> None:
        self.vocab = llama_cpp.llama_model_get_vocab(model)
        self.name = name
        self._normalizes = gguf_metadata.get("tokenizer.ggml.pre") in _NFC_SPLITTERS
        self.chat_template = gguf_metadata.get("tokenizer.chat_template", "")
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        control = [
            token
            for token in range(self.vocabulary_size)
            if llama_cpp.llama_vocab_is_control(self.vocab, token)
        ]
        self.special_token_ids = frozenset(control)
        self.special_tokens = tuple(
            sorted(
                {self.convert_id_to_token(token) for token in control} - {""}, key=len, reverse=True
            )
        )
        self.added_tokens = tuple(
            self.convert_id_to_token(token)
            for token in range(self.vocabulary_size)
            if llama_cpp.llama_vocab_get_attr(self.vocab, token) & _ADDED_TOKEN
        )
        bos, end = llama_cpp.llama_vocab_bos(self.vocab), llama_cpp.llama_vocab_eos(self.vocab)
        self.eos_token_id: int | None = end if end >= 0 else None
        self.eos_token = self.convert_id_to_token(end) if end >= 0 else None
        bos_token = self.convert_id_to_token(bos) if bos >= 0 else ""
        self.bos_text = bos_token if llama_cpp.llama_vocab_get_add_bos(self.vocab) else ""
        self.template_tokens: Mapping[str, str] = {
            "bos_token": bos_token,
            "eos_token": self.eos_token or "",
        }

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All tokens that end a text or a turn, according to the file."""
        return tuple(
            token
            for token in range(self.vocabulary_size)
            if llama_cpp.llama_vocab_is_eog(self.vocab, token)
        )

    @property
    def vocabulary(self) -> _GgufVocabulary:
        return _GgufVocabulary(self)

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if self._normalizes:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        return [self._encode(text.encode("utf-8", "replace")) for text in texts]

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        pieces = (
            self._decode_token(token, special=keep_special_tokens)
            for token in tokens
            if keep_special_tokens or token not in self.special_token_ids
        )
        return b"".join(pieces).decode("utf-8", "replace")

    def convert_id_to_token(self, token: int) -> str:
        return self._decode_token(token, special=True).decode("utf-8", "replace")

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        from llguidance.llamacpp import lltokenizer_from_vocab

        with warnings.catch_warnings():
            # Llguidance calls llama.cpp by an older name.
            warnings.simplefilter("ignore", DeprecationWarning)
            return lltokenizer_from_vocab(
                self.vocab, n_vocab=vocabulary_size, eos_token=list(eos_token_ids)
            )

    def _encode(self, text: bytes) -> tuple[int, ...]:
        room = len(text) + 8  # a token has at least one byte
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), tokens, room, False, True)
        return tuple(tokens[:count])

    def _decode_token(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_MAX_TOKEN_BYTES)
        count = llama_cpp.llama_token_to_piece(
            self.vocab, token, buffer, _MAX_TOKEN_BYTES, 0, special
        )
        return buffer.raw[: max(0, count)]


class _GgufVocabulary:
    """The texts that are single tokens. Each is looked up when needed, since listing a large
    vocabulary takes a second.
    """

    def __init__(self, tokenizer: GgufTokenizer) -> None:
        self._tokenizer = tokenizer

    def __contains__(self, token: object) -> bool:
        found = self._tokenizer.encode([token])[0] if isinstance(token, str) else ()
        return len(found) == 1 and self._tokenizer.convert_id_to_token(found[0]) == token
