"""Decodes generated tokens to complete characters, up to the first stop text."""

from __future__ import annotations

from collections.abc import Collection

from medtask.engines.tokens.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"  # what a decoder returns for an incomplete character
MAX_CHARACTER_TOKENS = 8  # tokens; a character that is still incomplete after these is invalid


class Detokenizer:
    """The text of the tokens added so far.

    It ends before the first complete stop text; with ``stop_at_newline`` also at the end of its
    first nonblank line. With ``keep_special_tokens`` special tokens are part of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_texts: Collection[str],
        *,
        stop_at_newline: bool = False,
        keep_special_tokens: bool = False,
    ) -> None:
        self.text = ""
        self.is_stopped = False
        self._tokenizer = tokenizer
        self._stop_texts = tuple(stop for stop in stop_texts if stop)
        self._stop_at_newline = stop_at_newline
        self._keep_special_tokens = keep_special_tokens
        # A decoder's output for a token depends on its neighbours, so each piece is the text that a
        # token adds to that of the tokens before it.
        self._tokens: list[int] = []
        self._emitted_count = 0
        self._emitted_text = ""

    def add_token(self, token: int) -> None:
        """Add a token and the characters that it completes."""
        self._tokens.append(token)
        decoded = self._decode(self._tokens)
        pending_count = len(self._tokens) - self._emitted_count
        if not decoded.endswith(REPLACEMENT_CHARACTER) or pending_count > MAX_CHARACTER_TOKENS:
            self._emit(decoded)

    def flush(self) -> None:
        """Add the remaining tokens of an incomplete last character."""
        if not self.is_stopped and self._emitted_count < len(self._tokens):
            self._emit(self._decode(self._tokens))

    def get_stable_text(self) -> str:
        """The text that no further token can change: without the beginning of a stop text or
        whitespace at its end.
        """
        if self.is_stopped:
            return self.text.rstrip()
        stable_length = len(self.text)
        for stop in self._stop_texts:
            pending_length = next(
                (
                    size
                    for size in range(min(len(stop) - 1, len(self.text)), 0, -1)
                    if self.text.endswith(stop[:size])
                ),
                0,
            )
            stable_length = min(stable_length, len(self.text) - pending_length)
        return self.text[:stable_length].rstrip()

    def _emit(self, decoded: str) -> None:
        piece = decoded[len(self._emitted_text) :]
        if piece:
            self._tokens = self._tokens[self._emitted_count :]
            self._emitted_count = len(self._tokens)
            self._emitted_text = self._decode(self._tokens)
            self._append(piece)

    def _append(self, piece: str) -> None:
        old = len(self.text)
        self.text += piece
        starts = [
            (stop, self.text.find(stop, max(0, old - len(stop) + 1))) for stop in self._stop_texts
        ]
        if self._stop_at_newline:
            starts.append(
                ("\n", self.text.find("\n", max(old, len(self.text) - len(self.text.lstrip()))))
            )
        # The stop text that is complete first, so that the result does not depend on the number of
        # characters in a token.
        ends = [(start + len(stop), start) for stop, start in starts if start >= 0]
        if ends:
            self.text = self.text[: min(ends)[1]]
            self.is_stopped = True

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, keep_special_tokens=self._keep_special_tokens)
