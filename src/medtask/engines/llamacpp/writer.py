"""Writing with llama.cpp: every row in a sequence of its own behind the shared prefix, and in each
batch a token of every one.

Rows that wait are read in the same batches as the next tokens of those that are being written, so
no slot stays empty.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from medtask.engines.llamacpp.context import SEQUENCES, Full, Token
from medtask.engines.llamacpp.reader import PREFIX, Reader
from medtask.engines.writing.begin import find_prefix
from medtask.engines.writing.draft import Draft
from medtask.engines.writing.step import go_on
from medtask.engines.writing.write import Show

ROWS_AT_ONCE = 64  # all that callers hand over together
READ_AT_ONCE = 2048  # tokens of waiting rows that are read in one batch


def write_drafts(
    reader: Reader, drafts: Sequence[Draft], max_tokens: int, most_cells: int, show: Show
) -> Iterator[Draft]:
    """Write drafts to their ends, as many at a time as ``most_cells`` tokens of keys and values
    have room for.
    """
    if not drafts:
        return
    start = time.perf_counter()
    prefix = find_prefix(drafts)
    longest = max(draft.asked for draft in drafts) - len(prefix) + max_tokens
    rows = max(
        1, min(ROWS_AT_ONCE, SEQUENCES - 1, len(drafts), (most_cells - len(prefix)) // longest)
    )
    fresh = reader.keep_prefix(prefix, rows * longest)
    drafts[0].read += fresh
    drafts[0].ms += (time.perf_counter() - start) * 1000
    desk = _Desk(reader, prefix, drafts, rows)
    try:
        while desk.live or desk.waiting:
            desk.advance()
            for draft in list(desk.live.values())[:1]:
                show(draft)
            yield from desk.clear_done()
    finally:
        for sequence in desk.live:
            reader.context.drop(sequence)


class _Desk:
    """``live``: the drafts that are being written, by sequence; ``waiting``: those that have none
    yet.
    """

    def __init__(
        self, reader: Reader, prefix: tuple[int, ...], drafts: Sequence[Draft], rows: int
    ) -> None:
        self.context = reader.context
        self.prefix = len(prefix)
        self.rows = rows
        self.live: dict[int, Draft] = {}
        self.waiting = deque(sorted(drafts, key=lambda draft: -draft.asked))
        self._told: dict[int, int] = {}  # by sequence: how many of its tokens the context holds

    def advance(self) -> None:
        """One batch: the last token of each live draft, and the prompts of drafts that have just
        got a sequence.
        """
        start = time.perf_counter()
        self._fill()
        tokens: list[Token] = []
        news: list[int] = []
        for sequence, draft in self.live.items():
            told = self._told[sequence]
            new = draft.tokens[told:]
            tokens += [
                Token(token, told + place, (sequence,), place == len(new) - 1)
                for place, token in enumerate(new)
            ]
            news.append(len(new))
        try:
            logits = self.context.decode(tokens)
        except Full:
            self._give_way()
            return
        moved = list(self.live.items())
        for sequence, draft in moved:
            self._told[sequence] = len(draft.tokens)
        go_on([draft for _, draft in moved], np.ascontiguousarray(logits))
        ms = (time.perf_counter() - start) * 1000 / len(tokens)
        for (_, draft), count in zip(moved, news, strict=True):
            draft.read += count
            draft.ms += count * ms

    def clear_done(self) -> list[Draft]:
        """The drafts that are done; their sequences are free."""
        done = [(sequence, draft) for sequence, draft in self.live.items() if draft.done]
        for sequence, _ in done:
            self._release(sequence)
        return [draft for _, draft in done]

    def _fill(self) -> None:
        tokens = 0
        free = iter(sequence for sequence in range(1, self.rows + 1) if sequence not in self.live)
        for sequence in free:
            if not self.waiting or (
                tokens and tokens + len(self.waiting[0].tokens) - self.prefix > READ_AT_ONCE
            ):
                return
            draft = self.waiting.popleft()
            draft.start()
            draft.reused += self.prefix
            tokens += len(draft.tokens) - self.prefix
            self.context.copy(PREFIX, sequence)
            self.live[sequence] = draft
            self._told[sequence] = self.prefix

    def _give_way(self) -> None:
        """Where there is no room for all: half of the rows wait again, with what they have."""
        if len(self.live) == 1:
            ((sequence, draft),) = self.live.items()
            draft.fail(
                f"no memory for the keys and values of this row alone ({len(draft.tokens):,} "
                "tokens)"
            )
            return
        for sequence in list(self.live)[len(self.live) // 2 :]:
            self.waiting.appendleft(self._release(sequence))
        self.rows = len(self.live)

    def _release(self, sequence: int) -> Draft:
        self.context.drop(sequence)
        del self._told[sequence]
        return self.live.pop(sequence)
