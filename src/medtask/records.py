"""Records shared by all layers: Record, Prompt, Scores, Generated, Answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase
from typing import Literal

# What an answer can be: one label, one option's letter or a text; several labels or letters; or a
# record's fields.
Value = str | tuple[str, ...] | Mapping[str, object]

LETTERS = tuple(ascii_uppercase)  # what the options of a row are called, in their order


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table. ``group`` (a patient, say) keeps rows together that must not be split."""

    id: str
    fields: Mapping[str, object]
    gold: Value | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a candidate means, for engines that read no chat (encoders, TF-IDF)."""

    name: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """Candidate continuations of one prompt, of which exactly one is the answer.

    Attributes:
        prefix: The beginning of the model's turn, before any candidate.
        candidates: The continuations.
        ask: Text added to the last user turn, for this branch alone.
        weigh: "set" for the probability of each candidate among all of them, each closed by the
            end of the turn; "text" for the log-likelihood of each candidate's own tokens over the
            whole vocabulary.
        descriptions: What each candidate means. A single one is what the branch asks about: the
            first candidate is yes, the second no.
    """

    prefix: str
    candidates: tuple[str, ...]
    ask: str = ""
    weigh: Literal["set", "text"] = "set"
    descriptions: tuple[Description, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One of a row's own answers. ``letter`` is its name, A to Z."""

    letter: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to an engine.

    Attributes:
        record_id: The record it is about.
        messages: Chat turns.
        branches: What is scored; empty where the model writes.
        text: The bare input, for engines that read no chat (encoders, TF-IDF).
        options: The row's own options.
        thoughts: The model's reasoning; None where it was not asked to think.
        partial_response: What the model's turn holds so far, after the thoughts.
    """

    record_id: str
    messages: tuple[Message, ...]
    branches: tuple[Branch, ...]
    text: str
    options: tuple[Option, ...] = ()
    thoughts: str | None = None
    partial_response: str = ""


@dataclass(frozen=True, slots=True)
class BranchScores:
    """A model's scores of one branch's candidates.

    Attributes:
        logprobs: Natural logarithms, one per candidate. Their exponentials sum to 1 within
            ``slack``; with weigh "text" they are log-likelihoods, at most 0.
        off_set: The probability, at the first token, of anything outside the set; None where it is
            not known.
        slack: Proven bound on the error of any of the probabilities, because branchings of
            negligible probability were not read.
        choice_only: Whether the engine chose a candidate without probabilities; its logarithm is
            0, the others' minus infinity.
    """

    logprobs: tuple[float, ...]
    off_set: float | None = None
    slack: float = 0.0
    choice_only: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """An engine's result for a prompt with branches: one BranchScores per branch, and its cost.

    ``tokens_read`` went through the model for this prompt, ``tokens_reused`` came from a cache.
    ``ms``: this prompt's part of the time, in milliseconds.
    """

    record_id: str
    branches: tuple[BranchScores, ...]
    tokens_read: int = 0
    tokens_reused: int = 0
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How an engine is to write: up to ``max_tokens``, or one of ``stop`` (which is not part of the
    text), or its own end.

    ``temperature`` 0 takes the likeliest token always; above it tokens are drawn, repeatably from
    ``seed`` and the record's id. ``top_p``: only from the likeliest tokens with so much probability
    together. ``schema``: a JSON schema that the text must satisfy; a string with ``"quote": true``
    must stand in the prompt's ``text``, letter by letter. ``think``: thoughts are wanted, between
    the model family's own markers, and nothing else. ``stop_repetition``: whether to stop text that
    repeats itself. ``deadline_s``: seconds after which a row is stopped.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    schema: Mapping[str, object] | None = None
    think: bool = False
    stop_repetition: bool = True
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What an engine wrote for one prompt. ``finish_reason``: at its own end or a stop text
    ("stop"), or why before that.

    ``logprob``: sum of the tokens' natural log-probabilities, before temperature and constraint;
    ``tokens`` of them. ``tokens_read``, ``tokens_reused`` and ``ms``: see Scores; ``tokens_read``
    includes those that were written.
    """

    record_id: str
    text: str
    finish_reason: Literal["stop", "length", "loop", "deadline"]
    logprob: float = 0.0
    tokens: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    ms: float = 0.0


class Status(StrEnum):
    """The outcome of a row. OK and REVIEW have a value; TRUNCATED may have one."""

    OK = "ok"
    REVIEW = "review"
    ABSTAINED = "abstained"
    EMPTY_INPUT = "empty_input"
    NOT_TEXT = "not_text"
    TOO_SHORT = "too_short"
    NOVEL = "novel"
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"
    UNPARSABLE = "unparsable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be asked, or whose answer cannot be used.

    ``reason`` has no text of the record.
    """

    record_id: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A verbatim span of a record's text: ``text[start:end]``, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PassStep:
    """The answer of an earlier pass."""

    pass_name: str
    status: Status
    value: Value | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one record.

    ``value``: see Value; None where there is none. ``confidence``: probability of ``value``, in [0,
    1]; None where there is no value, or none that has a probability (free text). ``probabilities``:
    of every outcome that is scored (labels, letters, ``field=value``); of one label, or one option,
    they sum to 1; of several each is the probability that it applies. ``uncalibrated``: the model's
    own, where these are calibrated. ``off_set`` and ``slack``: see BranchScores. ``text``: what the
    model wrote, where it wrote. ``thoughts``: what it thought before. ``quotes``: by field.
    ``steps``: the answers of earlier passes, in their order. ``ms``: this row's share of the time
    spent, in milliseconds.
    """

    record_id: str
    status: Status
    value: Value | None = None
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None
    off_set: float | None = None
    slack: float = 0.0
    text: str | None = None
    thoughts: str | None = None
    quotes: Mapping[str, Quote] | None = None
    reason: str | None = None
    pass_name: str = "first"  # noqa: S105 - no password
    steps: tuple[PassStep, ...] = ()
    ms: float = 0.0
    tokens_read: int = 0
    tokens_reused: int = 0
    uncalibrated: Mapping[str, float] | None = None


def comparable_value(status: Status, value: Value | None, abstain_name: str | None) -> Value | None:
    """The value of an answer for comparisons: of an abstention its name; None without an answer."""
    return abstain_name if status is Status.ABSTAINED else value
