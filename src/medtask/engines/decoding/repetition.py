"""Detects repeated text while it is generated."""

from __future__ import annotations

import numpy as np

MIN_LOOP_TOKENS = 96
MIN_REPETITIONS = 4
MAX_PERIOD = 256


class RepetitionDetector:
    """Detects that the last n tokens of a sequence repeat a period of p tokens, where

        n >= MIN_LOOP_TOKENS, n >= MIN_REPETITIONS * p and p <= MAX_PERIOD.

    The repetition must be exact. Lists whose entries differ, even only in their numbers, do not
    count, nor do short runs of equal cells, dots or lines as in tables. Each token is compared with
    the last MAX_PERIOD tokens.
    """

    def __init__(self) -> None:
        # Holds the last MAX_PERIOD tokens twice, so that they can be read backwards from any index
        # without wrapping.
        self._recent_tokens = np.full(2 * MAX_PERIOD, -1)
        self._next_index = 0
        periods = np.arange(1, MAX_PERIOD + 1)
        self._match_lengths = np.zeros(
            MAX_PERIOD, dtype=np.int64
        )  # for each period: the number of last tokens that equal the one a period before
        self._min_match_lengths = np.maximum(MIN_LOOP_TOKENS, MIN_REPETITIONS * periods) - periods

    def add_token(self, token: int) -> int:
        """Add the next token; returns how many of the last tokens repeat those before them, 0
        outside a loop.
        """
        previous_tokens = self._recent_tokens[self._next_index : self._next_index + MAX_PERIOD][
            ::-1
        ]
        self._match_lengths = np.where(previous_tokens == token, self._match_lengths + 1, 0)
        self._recent_tokens[self._next_index] = self._recent_tokens[
            self._next_index + MAX_PERIOD
        ] = token
        self._next_index = (self._next_index + 1) % MAX_PERIOD
        is_repeating = self._match_lengths >= self._min_match_lengths
        return int(self._match_lengths[is_repeating.argmax()]) if is_repeating.any() else 0
