"""What a server can do, found out at start by asking it, not by believing its name.

Each ability is tried on two words that no model says by itself: a server that takes a request and
ignores what it does not know gives another answer, and is not trusted with it.
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
from medtask.engines.http.openai import THINKING_SWITCH_SERVERS, OpenAIDialect
from medtask.engines.http.protocol import (
    ChatRequest,
    ChatResponse,
    ConstraintMode,
    Dialect,
    ServerCaps,
    TokenLogprob,
)
from medtask.engines.http.token_counting import build_tokenize_body, parse_token_ids
from medtask.errors import EngineError, ModelNotFound, UsageError
from medtask.records import Message

T = TypeVar("T")

# No model says these by itself.
PROBE_WORDS = ("quorfblat", "zinblemog")
_SCHEMA = {
    "type": "object",
    "properties": {PROBE_WORDS[0]: {"type": "boolean"}},
    "required": [PROBE_WORDS[0]],
    "additionalProperties": False,
}
PROBE_MESSAGES = (Message("user", "Say hello."),)
PROBE_MAX_TOKENS = 32  # tokens for an answer to a probe
THINKING_TOKENS = 1024  # more for a server whose model thinks whether it was asked to or not
TOP_LOGPROBS = (20, 5)  # OpenAI and Ollama tell 20 at most, some servers 5
_MASKED_LOGPROB = math.log(
    0.45
)  # of two words the greedy one has half at least, where only those two are left


def probe_openai(client: HttpClient, model: str | None, context: int | None) -> ServerCaps:
    """The traits of an OpenAI-compatible server.

    Raises ModelNotFound or UsageError where it is not clear which model is meant, EngineError where
    the server cannot chat.
    """
    dialect = OpenAIDialect()
    azure = client.endpoint.api_type == "azure"
    # `transformers serve` answers with HTTP 500 where its cache was never used; whoever names the
    # model needs no list.
    listed = (
        None
        if azure
        else call_or_none(lambda: client.get("models"))
        if model
        else client.get("models")
    )
    entries = [
        entry
        for entry in (listed or {}).get("data") or ()
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]
    server_caps = _detect_server_type(
        client, choose_model(client, model, [entry["id"] for entry in entries])
    )
    entry = next((entry for entry in entries if entry["id"] == server_caps.model), {})
    server_caps, response = _send_first_request(
        client, dialect, server_caps, [entry["id"] for entry in entries]
    )
    context_tokens = server_caps.context or entry.get("max_model_len")
    context_sizes = [
        size for size in (context_tokens, context) if isinstance(size, int) and size > 0
    ]
    server_caps = replace(
        server_caps,
        response_model=response.model,
        usage=response.prompt_tokens is not None,
        always_thinks=bool(response.thoughts),
        thinks=bool(response.thoughts),
        context=min(context_sizes, default=None),
    )
    if server_caps.server_type in THINKING_SWITCH_SERVERS and not server_caps.thinks:
        server_caps = replace(server_caps, thinks=_probe_thinking(client, dialect, server_caps))
    modes: tuple[ConstraintMode, ...] = ("choice", "grammar", "json_schema", "json_object")
    server_caps = probe_constraints(client, dialect, server_caps, modes)
    return probe_logprobs(client, dialect, _probe_continuation(client, server_caps))


def choose_model(client: HttpClient, wanted: str | None, served: list[str]) -> str:
    """The name of the model to ask for: the one that was named, or the only one there is."""
    if wanted:
        return wanted
    if len(served) == 1:
        return served[0]
    if not served:
        raise UsageError(
            f"{client.endpoint.url} does not tell which models it serves",
            fix=f"name one: {client.endpoint.url}#MODEL",
        )
    raise UsageError(
        f"{client.endpoint.url} serves {len(served)} models: {format_list(served, 5)}",
        fix=f"name one: {client.endpoint.url}#{served[0]}",
    )


def call_or_none(call: Callable[[], T]) -> T | None:
    """What the work gives; None where the server does not take it or answers something else. A
    server that is gone is an error.
    """
    try:
        return call()
    except RequestRejected:
        return None
    except EngineError as error:
        # llama-cpp-python answers what it cannot do with HTTP 500, as if it were broken.
        reason = str(getattr(error.__context__, "reason", ""))
        if reason.startswith("engine_protocol") or "HTTP 5" in reason:
            return None
        raise


def send_request(
    client: HttpClient, dialect: Dialect, server_caps: ServerCaps, request: ChatRequest
) -> ChatResponse:
    """One question outside a run."""
    extended = replace(
        request,
        max_tokens=request.max_tokens + (THINKING_TOKENS if server_caps.always_thinks else 0),
    )
    return client.post(
        dialect.path,
        dialect.build_body(extended, server_caps),
        lambda body: dialect.parse_response(body, server_caps),
        parse_retries=1,
    )


def probe_constraints(
    client: HttpClient, dialect: Dialect, server_caps: ServerCaps, modes: Iterable[ConstraintMode]
) -> ServerCaps:
    """By what the server can be held to a closed set and to a JSON schema, if by anything."""
    modes = tuple(modes)
    for mode in modes:
        trial = replace(server_caps, hold=mode)
        response = call_or_none(
            partial(
                send_request,
                client,
                dialect,
                trial,
                ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, choices=PROBE_WORDS),
            )
        )
        if (
            response
            and match_choice(response.text, PROBE_WORDS, json_object=wraps_in_json(mode))
            is not None
        ):
            server_caps = trial
            break
    for mode in modes:
        if not wraps_in_json(mode):
            continue
        trial = replace(server_caps, schema=mode)
        response = call_or_none(
            partial(
                send_request,
                client,
                dialect,
                trial,
                ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, schema=_SCHEMA),
            )
        )
        if response and _satisfies_probe_schema(response.text):
            return trial
    return server_caps


def probe_logprobs(client: HttpClient, dialect: Dialect, server_caps: ServerCaps) -> ServerCaps:
    """How many of the likeliest tokens the server tells, and whether they are the model's own or
    what a constraint left.
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


def wraps_in_json(constraint: ConstraintMode | None) -> bool:
    """Whether an answer that is held in this way is a JSON object around the choice."""
    return constraint in {"json_schema", "json_object", "format"}


def _is_plausible(token_logprob: TokenLogprob) -> bool:
    """Whether these can be the likeliest tokens of one place: their probabilities differ, and are
    no more than 1 together.
    """
    logprobs = [logprob for _, logprob in token_logprob.top_logprobs]
    total = math.fsum(math.exp(min(logprob, 0.0)) for logprob in logprobs)
    return bool(logprobs) and total < 1.05 and (len(logprobs) == 1 or max(logprobs) > min(logprobs))


def _is_masked(token_logprobs: tuple[TokenLogprob, ...]) -> bool:
    # A model by itself gives a made-up word next to nothing, at its first token at least.
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


def _detect_server_type(client: HttpClient, model: str) -> ServerCaps:
    """Which software answers, by the endpoints that only it has."""
    if client.endpoint.remote and not client.endpoint.url.endswith("/v1"):
        return ServerCaps("OpenAI-compatible server", model)
    version = client.get("/version")
    chat = [{"role": "user", "content": "?"}]
    if version and call_or_none(
        lambda: client.post("/tokenize", {"model": model, "messages": chat}, parse_token_ids)
    ):
        return ServerCaps("vLLM", model, version=str(version.get("version", "")), counts="chat")
    props = client.get("/props")
    if props and isinstance(props.get("default_generation_settings"), dict):
        context = props["default_generation_settings"].get("n_ctx")
        rendered = call_or_none(
            lambda: client.post(
                "/apply-template", {"messages": chat}, lambda body: str(body["prompt"])
            )
        )
        return ServerCaps(
            "llama-server",
            model,
            version=str(props.get("build_info", "")),
            counts="template" if rendered else None,
            context=context if isinstance(context, int) else None,
        )
    if call_or_none(
        lambda: client.post(
            "/extras/tokenize/count",
            {"model": model, "input": "?"},
            lambda body: int(body["count"]),
        )
    ):
        # Its default of 1.1 makes what the prompt says less likely to be said again: labels, above
        # all.
        return ServerCaps(
            "llama-cpp-python",
            model,
            counts="text",
            extra_body={"repeat_penalty": 1.0, "min_p": 0.0},
        )
    return ServerCaps("OpenAI-compatible server", model)


def _send_first_request(
    client: HttpClient, dialect: OpenAIDialect, server_caps: ServerCaps, served: list[str]
) -> tuple[ServerCaps, ChatResponse]:
    """The first answer, and in which words the server wants to be told how long it may be."""
    request = ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS)
    refusals = []
    for limit_name, temperature in (
        ("max_tokens", True),
        ("max_completion_tokens", True),
        ("max_completion_tokens", False),
    ):
        trial = replace(server_caps, limit_name=limit_name, temperature=temperature)
        try:
            return trial, client.post(
                dialect.path,
                dialect.build_body(request, trial),
                partial(dialect.parse_response, server_caps=trial),
            )
        except RequestRejected as refused:
            refusals.append(refused)
            if refused.status not in {400, 422}:
                break
    if served and server_caps.model not in served:
        raise ModelNotFound(
            f"{client.endpoint.url} serves no model called {server_caps.model}, but "
            f"{format_list(served, 5)}",
            fix="name one of those behind the #",
        )
    raise refusals[0]


def _probe_continuation(client: HttpClient, server_caps: ServerCaps) -> ServerCaps:
    """Whether the server goes on with an assistant's turn, as its own template shows."""
    prefix = "The word is"
    if server_caps.server_type == "vLLM":
        body = build_tokenize_body(ChatRequest(PROBE_MESSAGES, 1, prefix=prefix), server_caps)
        ids = call_or_none(lambda: client.post("/tokenize", body, parse_token_ids))
        detokenize_body = {"model": server_caps.model, "tokens": list(ids or ())}
        text = ids and call_or_none(
            lambda: client.post("/detokenize", detokenize_body, lambda told: str(told["prompt"]))
        )
        return replace(server_caps, goes_on=bool(text and text.endswith(prefix)))
    if server_caps.server_type == "llama-server":
        body = OpenAIDialect().build_body(
            ChatRequest(PROBE_MESSAGES, 1, prefix=prefix), server_caps
        )
        text = call_or_none(
            lambda: client.post("/apply-template", body, lambda told: str(told["prompt"]))
        )
        return replace(server_caps, goes_on=bool(text and text.endswith(prefix)))
    return server_caps


def _probe_thinking(client: HttpClient, dialect: OpenAIDialect, server_caps: ServerCaps) -> bool:
    """Whether thoughts come apart from the answer where they are wanted."""
    response = call_or_none(
        lambda: send_request(
            client, dialect, server_caps, ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, think=True)
        )
    )
    return bool(response and response.thoughts)


def list_limitations(server_caps: ServerCaps, exact: bool) -> tuple[str, ...]:
    """What does not work as one might think, in words for the manifest."""
    notes = list(server_caps.notes)
    if not server_caps.hold:
        notes.append(
            "it cannot be held to a set of answers: one outside the set is asked again once, and "
            "is a fault then"
        )
    if not exact and server_caps.top:
        notes.append(
            "probabilities are those of the likeliest tokens along one answer (first_token), not "
            "of whole labels"
        )
    if not exact and not server_caps.top:
        notes.append("it tells no probabilities: answers carry no confidence")
    if not server_caps.schema:
        notes.append("it cannot be held to a JSON schema")
    if not server_caps.goes_on:
        notes.append(
            "it does not go on with an answer that was begun: what leads to it is told in words "
            "in the question"
        )
    return tuple(notes)


def describe_server_caps(server_caps: ServerCaps) -> dict[str, Any]:
    """The traits as the manifest tells them."""
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
