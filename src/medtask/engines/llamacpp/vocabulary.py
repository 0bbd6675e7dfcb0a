"""The tokenizer of a GGUF file, as llama.cpp has it."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp

from medtask.engines.tokens.template import render_chat

_PIECE = 4096  # bytes; the longest token of any known vocabulary has 200


class GgufTokenizer:
    """See Tokenizer. ``model``: a llama_cpp.llama_model_p that is kept alive elsewhere; ``facts``:
    the file's metadata.
    """

    def __init__(self, model: Any, name: str, facts: Mapping[str, str]) -> None:
        self.vocab = llama_cpp.llama_model_get_vocab(model)
        self.name = name
        self.template = facts.get("tokenizer.chat_template", "")
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        control = [
            token
            for token in range(self.size)
            if llama_cpp.llama_vocab_is_control(self.vocab, token)
        ]
        self.special_ids = frozenset(control)
        self.specials = tuple(
            sorted({self.spell(token) for token in control} - {""}, key=len, reverse=True)
        )
        bos, end = llama_cpp.llama_vocab_bos(self.vocab), llama_cpp.llama_vocab_eos(self.vocab)
        self.end_id: int | None = end if end >= 0 else None
        self.end = self.spell(end) if end >= 0 else None
        self._bos = self.spell(bos) if bos >= 0 else ""
        self.opening = self._bos if llama_cpp.llama_vocab_get_add_bos(self.vocab) else ""

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that closes a text or a turn, as the file tells."""
        return tuple(
            token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, token)
        )

    @property
    def vocabulary(self) -> _Vocabulary:
        return _Vocabulary(self)

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [self._encode(text.encode("utf-8", "replace")) for text in texts]

    def decode(self, tokens: Sequence[int], *, specials: bool = False) -> str:
        pieces = (
            self._piece(token, special=specials)
            for token in tokens
            if specials or token not in self.special_ids
        )
        return b"".join(pieces).decode("utf-8", "replace")

    def spell(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace")

    def write_chat(
        self, turns: Sequence[Mapping[str, str]], *, generate: bool, thinking: bool
    ) -> str:
        facts = {
            "bos_token": self._bos,
            "eos_token": self.end or "",
            "enable_thinking": thinking,
            "thinking": thinking,
        }
        return render_chat(
            self.template,
            {
                "messages": [dict(turn) for turn in turns],
                "add_generation_prompt": generate,
                **facts,
            },
        )

    def guide(self, vocabulary: int, ends: Sequence[int]) -> Any:
        from llguidance.llamacpp import lltokenizer_from_vocab

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # llguidance asks llama.cpp by an older name
            return lltokenizer_from_vocab(self.vocab, n_vocab=vocabulary, eos_token=list(ends))

    def _encode(self, text: bytes) -> tuple[int, ...]:
        room = len(text) + 8  # a token has at least a byte
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), tokens, room, False, True)
        return tuple(tokens[:count])

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, _PIECE, 0, special)
        return buffer.raw[: max(0, count)]


class _Vocabulary:
    """Which texts are single tokens; found out by asking, since listing them all takes a second on
    large vocabularies.
    """

    def __init__(self, tokenizer: GgufTokenizer) -> None:
        self._tokenizer = tokenizer

    def __contains__(self, token: object) -> bool:
        found = self._tokenizer.encode([token])[0] if isinstance(token, str) else ()
        return len(found) == 1 and self._tokenizer.spell(found[0]) == token
