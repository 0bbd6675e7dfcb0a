"""Decoding state of one row: its tokens, costs, stop conditions and repetitions."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtask.engines.decoding.constraints import GrammarConstraint
from medtask.engines.decoding.detokenizer import Detokenizer
from medtask.engines.decoding.sampling import create_row_rng, sample_token
from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.records import Fault, Generated, Limits, Prompt, Status

FinishReason = Literal["stop", "length", "loop", "deadline"]
MIN_LOOP_TOKENS = 96
MIN_REPETITIONS = 4
MAX_PERIOD = 256


@dataclass(frozen=True, slots=True)
class StopConditions:
    """The conditions that end a text.

    Attributes:
        token_ids: Tokens that end a text.
        stop_texts: Texts that end a text.
        stop_at_newline: Whether a text ends with its first nonblank line.
        special_tokens: Special tokens of the tokenizer in which stop texts are searched for, and
            which are then removed from the text.
    """

    token_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    stop_at_newline: bool = False
    special_tokens: tuple[str, ...] = ()


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
        # For each period: the number of last tokens that equal the one a period before.
        self._match_lengths = np.zeros(MAX_PERIOD, dtype=np.int64)
        self._min_match_lengths = np.maximum(MIN_LOOP_TOKENS, MIN_REPETITIONS * periods) - periods

    def add_token(self, token: int) -> int:
        """Add the next token; returns how many of the last tokens repeat those before them, 0
        outside a loop.
        """
        start, end = self._next_index, self._next_index + MAX_PERIOD
        previous_tokens = self._recent_tokens[start:end][::-1]
        self._match_lengths = np.where(previous_tokens == token, self._match_lengths + 1, 0)
        self._recent_tokens[[start, end]] = token
        self._next_index = (start + 1) % MAX_PERIOD
        is_repeating = self._match_lengths >= self._min_match_lengths
        return int(self._match_lengths[is_repeating.argmax()]) if is_repeating.any() else 0


class DecodingSequence:
    """A row whose text is generated.

    Attributes:
        tokens: Those of the prompt (``prompt_length`` of them), then the generated ones.
        group_key: Rows of one group begin with the same turns.
        tokens_read, tokens_reused, ms: Costs so far.
    """

    def __init__(
        self,
        prompt: Prompt,
        tokens: Sequence[int],
        limits: Limits,
        stop_conditions: StopConditions,
        tokenizer: Tokenizer,
    ) -> None:
        self.record_id = prompt.record_id
        self.group_key: Hashable = prompt.messages[:-1]
        self.tokens = list(tokens)
        self.prompt_length = len(tokens)
        self.constraint: GrammarConstraint | None = None
        self.finish_reason: FinishReason | None = None
        self.fault: Fault | None = None
        self.tokens_read = self.tokens_reused = 0
        self.ms = 0.0
        self._limits = limits
        self._stop_conditions = stop_conditions
        self._tokenizer = tokenizer
        # After whitespace a text begins as usual: a model may repeat the space that was stripped
        # from its prompt.
        self._continues_text = not limits.think and prompt.partial_response[-1:].strip() != ""
        self._detokenizer = self._create_detokenizer()
        self._repetition_detector = RepetitionDetector() if limits.stop_repetition else None
        self._rng = create_row_rng(limits.seed, prompt.record_id)
        self._logprob = 0.0
        self._generated_count = 0
        self._start_time: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.fault is not None or self.finish_reason is not None

    def set_constraint(self, constraint: GrammarConstraint) -> None:
        """Restrict the text to that allowed by the constraint."""
        self.constraint = constraint
        if constraint.error:
            self.fail(constraint.error)

    def start_timer(self) -> None:
        """Start measuring the row's time, unless already started."""
        if self._start_time is None:
            self._start_time = time.monotonic()

    def fail(self, reason: str, status: Status = Status.FAILED) -> None:
        """Fail the row. ``reason`` must not contain text of the record."""
        self.fault = Fault(self.record_id, status, reason)

    @property
    def is_greedy(self) -> bool:
        return self._limits.temperature <= 0

    def sample_token(self, logits: NDArray[np.floating]) -> int:
        """Sample the next token from the logits [vocabulary] of the allowed tokens."""
        return sample_token(logits, self._rng, self._limits.temperature, self._limits.top_p)

    def append_token(self, token: int, logprob: float) -> None:
        """Append a token, and finish the row if it was the last one."""
        if not math.isfinite(logprob):
            self.fail("the model's numbers are not finite")
            return
        self._logprob += logprob
        self._generated_count += 1
        if token in self._stop_conditions.token_ids:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self._detokenizer.add_token(token)
        if self.constraint:
            self.constraint.accept_token(token)
            if self.constraint.error:
                self.fail(self.constraint.error)
                return
        repeated_tokens = (
            self._repetition_detector.add_token(token) if self._repetition_detector else 0
        )
        if self._detokenizer.is_stopped or (self.constraint and self.constraint.is_finished):
            self.finish_reason = "stop"
        elif repeated_tokens:
            self.finish_reason = "loop"
            self._truncate_text(len(self.tokens) - repeated_tokens)
        elif self._generated_count >= self._limits.max_tokens:
            self.finish_reason = "length"
        elif (
            self._limits.deadline_s is not None
            and self._get_elapsed_seconds() >= self._limits.deadline_s
        ):
            self.finish_reason = "deadline"

    def get_text(self) -> str:
        """The text that no further token can change; all of it once the row is finished. See
        PackedEngine.generate for its whitespace.
        """
        if self.is_finished:
            self._detokenizer.flush()
            text = self._detokenizer.text.rstrip()
        else:
            text = self._detokenizer.get_stable_text()
        for special in self._stop_conditions.special_tokens:
            text = text.replace(special, "")
        return text if self._continues_text else text.lstrip()

    def to_result(self) -> Generated | Fault:
        """The row's result."""
        if self.fault:
            return self.fault
        assert self.finish_reason
        return Generated(
            self.record_id,
            self.get_text(),
            self.finish_reason,
            self._logprob,
            self._generated_count,
            self.tokens_read,
            self.tokens_reused,
            self.ms,
        )

    def _get_elapsed_seconds(self) -> float:
        return 0.0 if self._start_time is None else time.monotonic() - self._start_time

    def _create_detokenizer(self) -> Detokenizer:
        return Detokenizer(
            self._tokenizer,
            self._stop_conditions.stop_texts,
            stop_at_newline=self._stop_conditions.stop_at_newline,
            keep_special_tokens=bool(self._stop_conditions.special_tokens),
        )

    def _truncate_text(self, count: int) -> None:
        """Keep the text of the first ``count`` tokens only."""
        self._detokenizer = self._create_detokenizer()
        for token in self.tokens[self.prompt_length : count]:
            self._detokenizer.add_token(token)
