"""Probes the features of a server, independent of the wire format.

Each feature is tried with two words that a model does not generate by itself. A server that accepts
a request but ignores unknown fields gives another answer, and the feature counts as unsupported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from medtask.display import format_list
from medtask.engines.http.choice_scores import match_choice
from medtask.engines.http.client import HttpClient, RequestRejected
from medtask.engines.http.protocol import (
    ChatRequest,
    ChatResponse,
    ConstraintMode,
    Dialect,
    ServerCaps,
    TokenLogprob,
    wraps_in_json,
)
from medtask.errors import EngineError, UsageError
from medtask.records import Message

T = TypeVar("T")

# Words that a model does not generate by itself.
PROBE_WORDS = ("quorfblat", "zinblemog")
_SCHEMA = {
    "type": "object",
    "properties": {PROBE_WORDS[0]: {"type": "boolean"}},
    "required": [PROBE_WORDS[0]],
    "additionalProperties": False,
}
PROBE_MESSAGES = (Message("user", "Say hello."),)
PROBE_MAX_TOKENS = 32  # tokens of an answer to a probe
TOP_LOGPROBS = (20, 5)  # OpenAI and Ollama report at most 20, some servers 5
_MASKED_LOGPROB = math.log(0.45)  # of two allowed words, the greedy one has at least one half


def choose_model(client: HttpClient, name: str | None, served: list[str]) -> str:
    """The name of the model to request: the given one, or the only one that is served."""
    if name:
        return name
    if len(served) == 1:
        return served[0]
    if not served:
        raise UsageError(
            f"{client.endpoint.url} does not list the models that it serves",
            fix=f"name one: {client.endpoint.url}#MODEL",
        )
    raise UsageError(
        f"{client.endpoint.url} serves {len(served)} models: {format_list(served, 5)}",
        fix=f"name one: {client.endpoint.url}#{served[0]}",
    )


def check_rendered_probe(text: str | None, server_type: str) -> None:
    """Raise EngineError if the rendered text of the probe's chat lacks its message."""
    if text and PROBE_MESSAGES[0].content not in text:
        raise make_template_error(server_type)


def make_template_error(server_type: str) -> EngineError:
    """The error for a chat template that leaves out the messages."""
    return EngineError(
        f"the chat template of this {server_type} model leaves out the message: the model "
        "would answer without reading the record",
        fix="repair the template on the server, or choose another model",
    )


def call_or_none(call: Callable[[], T]) -> T | None:
    """The result of a call; None if the server rejects it or returns something else. A server that
    cannot be reached raises an error.
    """
    try:
        return call()
    except RequestRejected:
        return None
    except EngineError as error:
        # llama-cpp-python answers unsupported requests with HTTP 500.
        reason = str(getattr(error.__context__, "reason", ""))
        if reason.startswith("engine_protocol") or "HTTP 5" in reason:
            return None
        raise


def send_request(
    client: HttpClient, dialect: Dialect, server_caps: ServerCaps, request: ChatRequest
) -> ChatResponse:
    """Send one request outside a run."""
    extended = replace(request, max_tokens=request.max_tokens + server_caps.thinking_tokens)
    return client.post(
        dialect.path,
        dialect.build_body(extended, server_caps),
        lambda body: dialect.parse_response(body, server_caps),
        parse_retries=1,
    )


def probe_constraints(
    client: HttpClient, dialect: Dialect, server_caps: ServerCaps, modes: Iterable[ConstraintMode]
) -> ServerCaps:
    """Probe how answers can be constrained to a closed set and to a JSON schema."""

    def ask(trial: ServerCaps, request: ChatRequest) -> str:
        response = call_or_none(partial(send_request, client, dialect, trial, request))
        return response.text if response else ""

    modes = tuple(modes)
    request = ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, choices=PROBE_WORDS)
    for mode in modes:
        trial = replace(server_caps, hold=mode)
        text = ask(trial, request)
        if match_choice(text, PROBE_WORDS, json_object=wraps_in_json(mode)) is not None:
            server_caps = trial
            break
    request = ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, schema=_SCHEMA)
    for mode in filter(wraps_in_json, modes):
        trial = replace(server_caps, schema=mode)
        if _satisfies_probe_schema(ask(trial, request)):
            return trial
    return server_caps


def probe_logprobs(client: HttpClient, dialect: Dialect, server_caps: ServerCaps) -> ServerCaps:
    """Probe how many of the most probable tokens the server reports, and whether a constraint masks
    them.
    """
    for top_logprobs in TOP_LOGPROBS:
        request = ChatRequest(
            PROBE_MESSAGES,
            PROBE_MAX_TOKENS,
            choices=PROBE_WORDS if server_caps.hold else (),
            top_logprobs=top_logprobs,
        )
        response = call_or_none(partial(send_request, client, dialect, server_caps, request))
        if (
            response
            and response.token_logprobs
            and all(map(_is_plausible, response.token_logprobs))
        ):
            return replace(
                server_caps,
                top=top_logprobs,
                raw=not server_caps.hold or not _is_masked(response.token_logprobs),
            )
    return server_caps


def _is_plausible(token_logprob: TokenLogprob) -> bool:
    """Whether these can be the most probable tokens of a position: their probabilities differ and
    sum to at most 1.
    """
    logprobs = [logprob for _, logprob in token_logprob.top_logprobs]
    total = math.fsum(math.exp(min(logprob, 0.0)) for logprob in logprobs)
    return bool(logprobs) and total < 1.05 and (len(logprobs) == 1 or max(logprobs) > min(logprobs))


def _is_masked(token_logprobs: tuple[TokenLogprob, ...]) -> bool:
    # Without a mask, the first token of a made-up word has almost no probability.
    return all(token_logprob.logprob > _MASKED_LOGPROB for token_logprob in token_logprobs)


def _satisfies_probe_schema(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(value, dict)
        and list(value) == [PROBE_WORDS[0]]
        and isinstance(value[PROBE_WORDS[0]], bool)
    )


def list_limitations(server_caps: ServerCaps, exact: bool) -> tuple[str, ...]:
    """The limitations of the server, as sentences for the manifest."""
    notes = list(server_caps.notes)
    if not server_caps.hold:
        notes.append(
            "it cannot restrict answers to a set: after an answer outside the set it is asked "
            "once more, then the row is a fault"
        )
    if not exact and server_caps.top:
        notes.append(
            "probabilities are those of the likeliest tokens along one answer (first_token), not "
            "of whole labels"
        )
    if not exact and not server_caps.top:
        notes.append("it reports no probabilities: answers have no confidence")
    if not server_caps.schema:
        notes.append("it cannot restrict answers to a JSON schema")
    if not server_caps.goes_on:
        notes.append(
            "it does not continue a partial answer: its beginning is part of the question instead"
        )
    return tuple(notes)


def describe_server_caps(server_caps: ServerCaps) -> dict[str, Any]:
    """The server's features for the manifest."""
    names = (
        "hold",
        "schema",
        "goes_on",
        "top",
        "raw",
        "usage",
        "counts",
        "context",
        "thinks",
        "limit_name",
        "temperature",
    )
    return {name: getattr(server_caps, name) for name in names}
