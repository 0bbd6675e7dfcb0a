"""The words that all floors share: what goes in, what an engine is asked, what it says, what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table. ``group`` (a patient, say) keeps rows together that must not be split."""

    id: str
    fields: Mapping[str, object]
    gold: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Candidate continuations of one prompt, of which exactly one is the answer.

    ``lead`` is text that the model is given after the prompt, before any candidate; ``tails`` are the candidates.
    """

    lead: str
    tails: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to an engine. ``text`` is the bare input, for engines that take no chat (encoders, TF-IDF)."""

    record_id: str
    messages: tuple[Message, ...]
    branches: tuple[Branch, ...]
    text: str


@dataclass(frozen=True, slots=True)
class BranchScores:
    """What a model thinks of one branch's tails.

    ``logprobs``: natural logarithms, one per tail; their exponentials sum to 1 within ``slack``.
    ``off_set``: the share of probability, at the first token, that the model gave to something outside the set; None
    where the engine cannot tell.
    ``slack``: proven bound on how far any of the probabilities can be from the exact value, because branchings of
    negligible weight were not read.
    """

    logprobs: tuple[float, ...]
    off_set: float | None = None
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """An engine's answer to one prompt: one BranchScores per branch, and what it cost.

    ``tokens_read`` went through the model for this prompt, ``tokens_reused`` did not have to. ``ms``: its share of the time.
    """

    record_id: str
    branches: tuple[BranchScores, ...]
    tokens_read: int = 0
    tokens_reused: int = 0
    ms: float = 0.0


class Status(StrEnum):
    """What became of a row. Every row gets exactly one; only OK and REVIEW carry a value."""

    OK = "ok"
    REVIEW = "review"
    ABSTAINED = "abstained"
    EMPTY_INPUT = "empty_input"
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"
    UNPARSABLE = "unparsable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be asked or whose answer cannot be used. ``reason`` carries no text of the record."""

    record_id: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What medtask says about one record.

    ``confidence``: probability of ``value``, in [0, 1]; None where there is no value.
    ``probabilities``: every label of the task (and its abstention) with its probability; they sum to 1.
    ``off_set`` and ``slack``: see BranchScores. ``ms``: this row's share of the time spent, in milliseconds.
    """

    record_id: str
    status: Status
    value: str | None = None
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None
    off_set: float | None = None
    slack: float = 0.0
    text: str | None = None
    reason: str | None = None
    pass_name: str = "first"  # noqa: S105 - no password
    ms: float = 0.0
    tokens_read: int = 0
    tokens_reused: int = 0
