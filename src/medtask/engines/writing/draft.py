"""One row's text in the making: what was chosen so far, and whether it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.engines.writing.constrain import Constraint
from medtask.engines.writing.loops import LoopWatch
from medtask.engines.writing.sample import draw_token, seed_chance
from medtask.engines.writing.transcript import Transcript
from medtask.records import Fault, Generated, Limits, Prompt, Status

Ended = Literal["stop", "length", "loop", "deadline"]


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a text by itself: one of ``tokens``, one of the ``stops``, the end of its first
    ``line``.

    ``specials``: special tokens of the tokenizer that stops are looked for in, and that are taken
    out of the text then.
    """

    tokens: frozenset[int]
    stops: tuple[str, ...]
    line: bool = False
    specials: tuple[str, ...] = ()


class Draft:
    """A row that is being written. ``tokens``: those of its prompt (``asked`` of them), then those
    written.

    ``group``: rows of one group begin with the same turns. ``read``, ``reused``, ``ms``: its costs
    so far.
    """

    def __init__(
        self,
        prompt: Prompt,
        tokens: Sequence[int],
        limits: Limits,
        ends: Ends,
        tokenizer: Tokenizer,
    ) -> None:
        self.record_id = prompt.record_id
        self.group: Hashable = prompt.messages[:-1]
        self.tokens = list(tokens)
        self.asked = len(tokens)
        self.constraint: Constraint | None = None
        self.ended: Ended | None = None
        self.fault: Fault | None = None
        self.read = self.reused = 0
        self.ms = 0.0
        self._limits = limits
        self._ends = ends
        self._tokenizer = tokenizer
        # Behind a blank, the text begins like any other: a model may well repeat the space that was
        # taken from its prompt.
        self._goes_on = not limits.think and prompt.written[-1:].strip() != ""
        self._transcript = self._begin_transcript()
        self._loops = LoopWatch() if limits.loops else None
        self._chance = seed_chance(limits.seed, prompt.record_id)
        self._logprob = 0.0
        self._count = 0
        self._started: float | None = None

    @property
    def done(self) -> bool:
        return self.fault is not None or self.ended is not None

    def hold_to(self, constraint: Constraint) -> None:
        """Let nothing be written but what the constraint allows."""
        self.constraint = constraint
        if constraint.fault:
            self.fail(constraint.fault)

    def start(self) -> None:
        """The row's time begins to run; once."""
        if self._started is None:
            self._started = time.monotonic()

    def fail(self, reason: str, status: Status = Status.FAILED) -> None:
        """Give the row up. ``reason`` carries no text of the record."""
        self.fault = Fault(self.record_id, status, reason)

    @property
    def greedy(self) -> bool:
        return self._limits.temperature <= 0

    def draw(self, logits: NDArray[np.floating]) -> int:
        """The next token by chance, from the logits [vocabulary] of those that are allowed."""
        return draw_token(logits, self._chance, self._limits.temperature, self._limits.top_p)

    def take(self, token: int, logprob: float) -> None:
        """Go on with a token, and find out whether that was the last one."""
        if not math.isfinite(logprob):
            self.fail("the model's numbers are not finite")
            return
        self._logprob += logprob
        self._count += 1
        if token in self._ends.tokens:
            self.ended = "stop"
            return
        self.tokens.append(token)
        self._transcript.add(token)
        if self.constraint:
            self.constraint.take(token)
            if self.constraint.fault:
                self.fail(self.constraint.fault)
                return
        repeated = self._loops.add(token) if self._loops else 0
        if self._transcript.stopped or (self.constraint and self.constraint.done):
            self.ended = "stop"
        elif repeated:
            self.ended = "loop"
            self._keep(len(self.tokens) - repeated)
        elif self._count >= self._limits.max_tokens:
            self.ended = "length"
        elif self._limits.deadline_s is not None and self._seconds() >= self._limits.deadline_s:
            self.ended = "deadline"

    def text(self) -> str:
        """What is certain of the text so far; all of it once the row is done. See HfEngine.generate
        for its blanks.
        """
        if self.done:
            self._transcript.finish()
        text = self._transcript.text.rstrip() if self.done else self._transcript.settled()
        for special in self._ends.specials:
            text = text.replace(special, "")
        return text if self._goes_on else text.lstrip()

    def finish(self) -> Generated | Fault:
        """The row's result."""
        if self.fault:
            return self.fault
        assert self.ended
        return Generated(
            self.record_id,
            self.text(),
            self.ended,
            self._logprob,
            self._count,
            self.read,
            self.reused,
            self.ms,
        )

    def _seconds(self) -> float:
        return 0.0 if self._started is None else time.monotonic() - self._started

    def _begin_transcript(self) -> Transcript:
        return Transcript(
            self._tokenizer,
            self._ends.stops,
            line=self._ends.line,
            specials=bool(self._ends.specials),
        )

    def _keep(self, count: int) -> None:
        """Tell the text of the first ``count`` tokens only."""
        self._transcript = self._begin_transcript()
        for token in self.tokens[self.asked : count]:
            self._transcript.add(token)
