"""Tokens into text while they come: whole characters only, up to the first stop text."""

from __future__ import annotations

from collections.abc import Collection

from medtask.engines.tokens.tokenizer import Tokenizer

BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character yet
LONGEST_CHARACTER = 8  # tokens; whoever waits longer waits for a character that is broken for good


class Transcript:
    """The text of tokens so far.

    The first of ``stops`` that is whole ends it and is not part of it; ``line`` True: so does the
    end of its first line that is not blank. ``specials``: whether special tokens show.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Collection[str],
        *,
        line: bool = False,
        specials: bool = False,
    ) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._line = line
        self._specials = specials
        # Decoders look at a token's neighbours, so each piece is what a token adds to the text of
        # the few before it.
        self._tokens: list[int] = []
        self._told = 0
        self._known = ""

    def add(self, token: int) -> None:
        """Add a token, and with it whatever characters it completes."""
        self._tokens.append(token)
        whole = self._decode(self._tokens)
        waiting = len(self._tokens) - self._told
        if not whole.endswith(BROKEN) or waiting > LONGEST_CHARACTER:
            self._tell(whole)

    def finish(self) -> None:
        """Add what a character was waited for that will not come."""
        if not self.stopped and self._told < len(self._tokens):
            self._tell(self._decode(self._tokens))

    def settled(self) -> str:
        """The text that no further token can take back: neither the beginning of a stop text nor a
        blank at its end.
        """
        if self.stopped:
            return self.text.rstrip()
        sure = len(self.text)
        for stop in self._stops:
            held = next(
                (
                    size
                    for size in range(min(len(stop) - 1, len(self.text)), 0, -1)
                    if self.text.endswith(stop[:size])
                ),
                0,
            )
            sure = min(sure, len(self.text) - held)
        return self.text[:sure].rstrip()

    def _tell(self, whole: str) -> None:
        piece = whole[len(self._known) :]
        if piece:
            self._tokens = self._tokens[self._told :]
            self._told = len(self._tokens)
            self._known = self._decode(self._tokens)
            self._append(piece)

    def _append(self, piece: str) -> None:
        old = len(self.text)
        self.text += piece
        starts = [(stop, self.text.find(stop, max(0, old - len(stop) + 1))) for stop in self._stops]
        if self._line:
            starts.append(
                ("\n", self.text.find("\n", max(old, len(self.text) - len(self.text.lstrip()))))
            )
        # The one that is whole first, so that it does not matter how many characters come with a
        # token.
        ends = [(start + len(stop), start) for stop, start in starts if start >= 0]
        if ends:
            self.text = self.text[: min(ends)[1]]
            self.stopped = True

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, specials=self._specials)
