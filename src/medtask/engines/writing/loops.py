"""Text that repeats itself: noticed while it is written."""

from __future__ import annotations

import numpy as np

LEAST_TOKENS = 96
LEAST_ROUNDS = 4
LONGEST_ROUND = 256


class LoopWatch:
    """Tells when a sequence of tokens has run into a loop: its last n tokens repeat a round of p
    tokens, where

        n >= LEAST_TOKENS, n >= LEAST_ROUNDS * p and p <= LONGEST_ROUND.

    The repetition must be exact, so lists whose entries differ, if only in their numbers, never
    count; nor does a short run of equal cells, dots or lines, which lists and tables have. A true
    loop is noticed LEAST_TOKENS or LEAST_ROUNDS rounds after it began, whichever is more. A token
    costs one comparison with each of the last LONGEST_ROUND.
    """

    def __init__(self) -> None:
        # The last LONGEST_ROUND tokens twice over, so that they can be read backwards from any
        # place without wrapping.
        self._recent = np.full(2 * LONGEST_ROUND, -1)
        self._next = 0
        periods = np.arange(1, LONGEST_ROUND + 1)
        self._equal = np.zeros(
            LONGEST_ROUND, dtype=np.int64
        )  # for each period: how many tokens in a row equal the one a period before
        self._enough = np.maximum(LEAST_TOKENS, LEAST_ROUNDS * periods) - periods

    def add(self, token: int) -> int:
        """Note the next token; how many of the last tokens do nothing but repeat what stands before
        them, 0 outside a loop.
        """
        before = self._recent[self._next : self._next + LONGEST_ROUND][::-1]
        self._equal = np.where(before == token, self._equal + 1, 0)
        self._recent[self._next] = self._recent[self._next + LONGEST_ROUND] = token
        self._next = (self._next + 1) % LONGEST_ROUND
        looping = self._equal >= self._enough
        return int(self._equal[looping.argmax()]) if looping.any() else 0
