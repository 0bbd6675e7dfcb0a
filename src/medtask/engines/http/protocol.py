"""Requests, responses and features of a server, and the interface of wire formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from medtask.engines.tokens.markers import COMMON_MARKERS
from medtask.records import Message

# How answers are constrained to a closed set, in order of preference: a list of texts (vLLM), a
# GBNF grammar (llama.cpp), a JSON schema (OpenAI), the same for llama-cpp-python, Ollama's
# `format`.
ConstraintMode = Literal["choice", "grammar", "json_schema", "json_object", "format"]
THINKING_TOKENS = 1024  # more for a server whose model always thinks


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request.

    Attributes:
        messages: The chat messages.
        max_tokens: Maximum number of tokens of the answer.
        prefix: Beginning of the assistant's turn, only for servers that can continue one.
        choices: Texts to which the answer is constrained, if supported.
        schema: JSON schema to which the answer is constrained, if supported.
        stop: Texts that end the answer.
        temperature: Sampling temperature.
        top_p: Probability of the nucleus that is sampled.
        seed: Sampling seed.
        top_logprobs: Number of most probable tokens to report per position; 0 for none.
        think: Whether thoughts are requested.
        stream: Whether the answer is streamed.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    prefix: str = ""
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int = 0
    think: bool = False
    stream: bool = False

    def list_turns(self) -> list[dict[str, str]]:
        """The messages as JSON values; the prefix begins the assistant's turn."""
        turns = [{"role": message.role, "content": message.content} for message in self.messages]
        return turns + ([{"role": "assistant", "content": self.prefix}] if self.prefix else [])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer: its bytes and natural log-probability, and those of the most probable
    tokens at its position.
    """

    token: bytes
    logprob: float
    top_logprobs: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A server's answer. ``token_logprobs`` is None if not reported; ``prompt_tokens`` is the
    number of tokens that the server reports to have read.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    model: str
    token_logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    thoughts: str = ""


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """A piece of a streamed answer; the last one has ``finish_reason`` and, if reported, the
    counts.
    """

    text: str = ""
    thoughts: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ServerCaps:
    """The features that a server supports, as probed at start.

    Attributes:
        server_type: The server's software, for people.
        model: The name under which it serves the model.
        response_model: The model's name in its responses.
        version: The version of the software, if reported.
        hold: How answers are constrained to a closed set; None if they cannot be.
        schema: How answers are constrained to a JSON schema; None if they cannot be.
        goes_on: Whether it continues an assistant's turn.
        top: Number of most probable tokens reported per position; 0 without log-probabilities.
        raw: Whether log-probabilities are those of the model before a constraint is applied.
        usage: Whether it reliably reports the number of tokens read.
        counts: How a prompt's tokens are counted in advance: by the server's endpoint for chats, by
            its rendered template, or by the text; None if they cannot be.
        context: Tokens of prompt and answer together.
        thinks: Whether thoughts can be requested and are reported apart from the answer.
        always_thinks: Whether thoughts are generated without a request.
        limit_name: The request field for the maximum number of tokens.
        temperature: Whether a temperature may be set.
        continuation_flag: Whether a request needs a flag to continue the assistant's turn.
        thinking_switch: Whether ``chat_template_kwargs`` are passed to the model's template.
        prompt_logprobs: Whether log-probabilities of the prompt's tokens can be requested.
        extra_body: Additional fields of every request.
        notes: Limitations of this version, for the manifest.
        template: The model's chat template, if the server reports it.
    """

    server_type: str
    model: str
    response_model: str = ""
    version: str = ""
    hold: ConstraintMode | None = None
    schema: ConstraintMode | None = None
    goes_on: bool = False
    top: int = 0
    raw: bool = True
    usage: bool = False
    counts: Literal["chat", "template", "text"] | None = None
    context: int | None = None
    thinks: bool = False
    always_thinks: bool = False
    limit_name: str = "max_tokens"
    temperature: bool = True
    continuation_flag: bool = False
    thinking_switch: bool = False
    prompt_logprobs: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    template: str = ""

    @property
    def thinking_tokens(self) -> int:
        """Additional tokens per answer for thoughts that were not requested."""
        return THINKING_TOKENS if self.always_thinks else 0


def wraps_in_json(constraint: ConstraintMode | None) -> bool:
    """Whether an answer under this constraint is a JSON object that contains the choice."""
    return constraint in {"json_schema", "json_object", "format"}


class Dialect(Protocol):
    """A wire format: pure functions from requests to bodies and from bodies to responses."""

    path: str

    def build_body(self, request: ChatRequest, server_caps: ServerCaps) -> dict[str, Any]:
        """The body of a request."""

    def parse_response(self, body: Any, server_caps: ServerCaps) -> ChatResponse:
        """Parse the response in a body; InvalidResponse if it is not valid, truncated or from
        another model.
        """

    def parse_chunk(self, event: Any, server_caps: ServerCaps) -> ChatChunk:
        """Parse the chunk in one event of a streamed response."""


def is_control_token(token: bytes) -> bool:
    """Whether a token is a control token, or empty, as some servers report the end of a turn."""
    text = token.decode(errors="replace").strip()
    return not token or COMMON_MARKERS.pattern.fullmatch(text) is not None
