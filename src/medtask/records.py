"""Records shared by all layers: Record, Prompt, Scores, Generated, Answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase
from types import MappingProxyType
from typing import Literal, NamedTuple

# The value of an answer: a label, an option's letter or a text; several labels or letters; or an
# object of fields.
Value = str | tuple[str, ...] | Mapping[str, object]

LETTERS = tuple(ascii_uppercase)  # names of a row's options, in order


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table. Rows with the same ``group`` (such as a patient) are never split."""

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
    """The meaning of a candidate, for engines that do not read chat (encoders, TF-IDF)."""

    name: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """Candidate continuations of one prompt, of which exactly one is the answer.

    Attributes:
        prefix: The beginning of the model's turn, before any candidate.
        candidates: The continuations.
        ask: Text added to the last user turn, for this branch only.
        weigh: "set" for the probability of each candidate among all of them, each followed by the
            end of the turn; "text" for the log-likelihood of each candidate's tokens over the whole
            vocabulary.
        descriptions: The meaning of each candidate. A single description is what the branch asks
            about: the first candidate is yes, the second no.
    """

    prefix: str
    candidates: tuple[str, ...]
    ask: str = ""
    weigh: Literal["set", "text"] = "set"
    descriptions: tuple[Description, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One of a row's options. ``letter`` is its name, A to Z."""

    letter: str
    text: str


# Incremented with every change that alters a prompt. Version 2 encloses the record in tags. Models
# trained on version 1 are still asked with it.
PROMPT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to an engine.

    Attributes:
        record_id: The id of the record.
        messages: Chat turns.
        branches: The branches to score; empty if the model generates text.
        text: The bare input, for engines that do not read chat (encoders, TF-IDF).
        options: The row's options.
        thoughts: The model's reasoning; None without reasoning.
        partial_response: The model's turn so far, after the thoughts.
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
        off_set: The probability of any first token outside the set; None if unknown.
        slack: Proven bound on the error of each probability, because continuations of negligible
            probability were not evaluated.
        choice_only: Whether the engine chose a candidate without probabilities; its logarithm is 0,
            the others' minus infinity.
    """

    logprobs: tuple[float, ...]
    off_set: float | None = None
    slack: float = 0.0
    choice_only: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """An engine's result for a prompt with branches.

    Attributes:
        record_id: The id of the record.
        branches: The scores of each branch.
        tokens_read: Tokens that the model processed for this prompt.
        tokens_reused: Tokens taken from a cache.
        ms: This prompt's share of the time, in milliseconds.
    """

    record_id: str
    branches: tuple[BranchScores, ...]
    tokens_read: int = 0
    tokens_reused: int = 0
    ms: float = 0.0

    @property
    def choice_only(self) -> bool:
        """Whether the engine chose a candidate of any branch without probabilities."""
        return any(branch.choice_only for branch in self.branches)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and sampling parameters of text generation.

    Attributes:
        max_tokens: The maximum number of tokens.
        stop: Texts that end generation; they are not part of the result.
        temperature: 0 for greedy decoding; above 0, tokens are sampled reproducibly from ``seed``
            and the record's id.
        top_p: Sample only from the most probable tokens with this total probability.
        seed: The seed of sampling.
        schema: A JSON schema that the text must satisfy. A string with ``"quote": true`` must be a
            verbatim part of the prompt's ``text``.
        think: Generate only thoughts, between the markers of the model family.
        stop_repetition: Stop text that repeats itself.
        deadline_s: The time limit per row, in seconds.
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
    """The text that an engine generated for one prompt.

    Attributes:
        record_id: The id of the record.
        text: The generated text.
        finish_reason: "stop" at the end of the turn or a stop text; else why it was cut off.
        logprob: Sum of the tokens' natural log-probabilities, before temperature and constraint.
        tokens: Number of generated tokens.
        tokens_read: Tokens that the model processed, including generated ones.
        tokens_reused: Tokens taken from a cache.
        ms: This prompt's share of the time, in milliseconds.
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
    """Why a row could not be asked, or its answer cannot be used.

    ``reason`` contains no record text.
    """

    record_id: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A verbatim span of a record.

    Attributes:
        text: The span: ``cell[start:end]`` of the cell as it was read, or a part of `Prompt.text`
            if the span is not within one cell.
        input_start: Its first character in `Prompt.text`.
        input_end: The end of the span in `Prompt.text`.
        column: The column of the cell; None if the span is not within one cell, or if the template
            changed the cell so that the place cannot be known.
        start: Its first character in the cell; None without a column.
        end: The end of the span in the cell; None without a column.
        ambiguous: Whether the record has the same text in several places, and nothing else in the
            answer shows which one is meant; the position is then that of the first one.
    """

    text: str
    input_start: int
    input_end: int
    column: str | None = None
    start: int | None = None
    end: int | None = None
    ambiguous: bool = False


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

    Attributes:
        record_id: The id of the record.
        status: The status of the row.
        value: The value (see `Value`); None without an answer.
        confidence: The probability of ``value``, in [0, 1]; None without a value, or for free text.
        probabilities: By outcome (label, letter or ``field=value``). For a single label or option
            they sum to 1; for several, each is the probability that it applies.
        off_set: See `BranchScores`.
        slack: See `BranchScores`.
        text: The text that the model generated, if any.
        thoughts: The reasoning before it.
        quotes: Quotes by field.
        reason: Why there is no value, or why a person should review it.
        pass_name: The pass that gave the answer.
        steps: The answers of earlier passes, in order.
        ms: This row's share of the time, in milliseconds.
        tokens_read: Tokens that the models processed for this row.
        tokens_reused: Tokens taken from a cache.
        uncalibrated: The model's probabilities, if ``probabilities`` are calibrated.
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


class LeftOut(StrEnum):
    """Why a row is left out of metrics: it is not new to the model, or was chosen by its answer.

    EXAMPLE and EXAMPLE_GROUP: the prompt shows the row, or a row of its group, with its answer.
    TRAINING and TRAINING_GROUP: the weights were fitted on the row, or on a row of its group.
    VALIDATION: the row, or a row of its group, chose the model or its thresholds.
    TUNING: the row, or a row of its group, chose the words or examples of the task.
    CALIBRATION: a calibration that changes answers was fitted on the row, or on a row of its group.
    CONFIDENCE: a calibration that changes no answer was fitted on the row: the answer counts, its
    confidence does not.
    REVIEW: the row has gold because its answer was doubtful, so it is harder than others.
    AUDIT: the row was drawn for an audit, which weighs it by the probability of its draw.
    """

    EXAMPLE = "example"
    EXAMPLE_GROUP = "example_group"
    TRAINING = "training"
    TRAINING_GROUP = "training_group"
    VALIDATION = "validation"
    TUNING = "tuning"
    CALIBRATION = "calibration"
    CONFIDENCE = "confidence"
    REVIEW = "review"
    AUDIT = "audit"


class AnsweredRow(NamedTuple):
    """The answer for one row, with the row's data.

    Attributes:
        row: The number of the row, from 1.
        answer: The answer.
        text: The bare input; "" if it is unknown.
        gold: The correct answer; None without gold.
        options: The row's options.
        group: The value of the group column.
        fields: The columns of the input table.
        left_out: Why the row is left out of metrics; None for a row that counts.
    """

    row: int
    answer: Answer
    text: str = ""
    gold: Value | None = None
    options: tuple[Option, ...] = ()
    group: str | None = None
    fields: Mapping[str, object] = MappingProxyType({})
    left_out: LeftOut | None = None

    @property
    def answer_counts(self) -> bool:
        """Whether metrics of answers use the row."""
        return self.left_out in (None, LeftOut.CONFIDENCE)


def comparable_value(status: Status, value: Value | None, abstain_name: str | None) -> Value | None:
    """The value for comparisons: the name of an abstention, None without an answer."""
    return abstain_name if status is Status.ABSTAINED else value


def list_names(value: Value | None) -> tuple[str, ...]:
    """The labels, letters or the text of a value; none without a value, or for an object."""
    if isinstance(value, str):
        return (value,)
    return value if isinstance(value, tuple) else ()
