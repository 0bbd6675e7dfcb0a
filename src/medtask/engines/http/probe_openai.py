"""Probes servers that are compatible with OpenAI's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from medtask.display import format_list
from medtask.engines.http.client import HttpClient, RequestRejected
from medtask.engines.http.openai import OpenAIDialect
from medtask.engines.http.probe import (
    PROBE_MAX_TOKENS,
    PROBE_MESSAGES,
    call_or_none,
    check_rendered_probe,
    choose_model,
    probe_constraints,
    probe_logprobs,
    send_request,
)
from medtask.engines.http.protocol import ChatRequest, ChatResponse, ConstraintMode, ServerCaps
from medtask.engines.http.token_counting import build_tokenize_body, parse_token_ids
from medtask.errors import ModelNotFound


def probe_openai(client: HttpClient, model: str | None, context: int | None) -> ServerCaps:
    """Probe an OpenAI-compatible server.

    Raises:
        ModelNotFound: The server does not have the model.
        UsageError: No model is named, and the server does not list exactly one.
        EngineError: The server has no chat completions.
    """
    dialect = OpenAIDialect()
    listed = None
    if client.endpoint.api_type != "azure":
        # `transformers serve` answers with HTTP 500 if its cache is empty; a named model needs no
        # list.
        list_models = partial(client.get, "models")
        listed = call_or_none(list_models) if model else list_models()
    entries = [
        entry
        for entry in (listed or {}).get("data") or ()
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]
    served = [entry["id"] for entry in entries]
    server_caps = _detect_server_type(client, choose_model(client, model, served))
    entry = next((entry for entry in entries if entry["id"] == server_caps.model), {})
    server_caps, response = _send_first_request(client, dialect, server_caps, served)
    sizes = (server_caps.context or entry.get("max_model_len"), context)
    context_sizes = [size for size in sizes if isinstance(size, int) and size > 0]
    server_caps = replace(
        server_caps,
        response_model=response.model,
        usage=response.prompt_tokens is not None,
        always_thinks=bool(response.thoughts),
        thinks=bool(response.thoughts),
        context=min(context_sizes, default=None),
    )
    if server_caps.thinking_switch and not server_caps.thinks:
        server_caps = replace(server_caps, thinks=_probe_thinking(client, dialect, server_caps))
    modes: tuple[ConstraintMode, ...] = ("choice", "grammar", "json_schema", "json_object")
    server_caps = probe_constraints(client, dialect, server_caps, modes)
    return probe_logprobs(client, dialect, _probe_continuation(client, server_caps))


def _detect_server_type(client: HttpClient, model: str) -> ServerCaps:
    """Detect the server's software by its specific endpoints."""
    if client.endpoint.remote and not client.endpoint.url.endswith("/v1"):
        return ServerCaps("OpenAI-compatible server", model)
    version = client.get("/version")
    chat = [{"role": "user", "content": "?"}]
    if version and call_or_none(
        lambda: client.post("/tokenize", {"model": model, "messages": chat}, parse_token_ids)
    ):
        return ServerCaps(
            "vLLM",
            model,
            version=str(version.get("version", "")),
            counts="chat",
            continuation_flag=True,
            thinking_switch=True,
            prompt_logprobs=True,
        )
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
            thinking_switch=True,
            context=context if isinstance(context, int) else None,
            template=str(props.get("chat_template") or ""),
        )
    if call_or_none(
        lambda: client.post(
            "/extras/tokenize/count",
            {"model": model, "input": "?"},
            lambda body: int(body["count"]),
        )
    ):
        # Its default of 1.1 makes words of the prompt, such as labels, less likely.
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
    """The first answer, and the name of the field that limits the number of tokens."""
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
            fix="name one of those after the #",
        )
    raise refusals[0]


def _probe_continuation(client: HttpClient, server_caps: ServerCaps) -> ServerCaps:
    """Probe whether the server continues an assistant's turn, by its rendered template."""
    prefix = "The word is"
    if server_caps.counts == "chat":
        body = build_tokenize_body(ChatRequest(PROBE_MESSAGES, 1, prefix=prefix), server_caps)
        ids = call_or_none(lambda: client.post("/tokenize", body, parse_token_ids))
        detokenize_body = {"model": server_caps.model, "tokens": list(ids or ())}
        text = (
            call_or_none(
                lambda: client.post(
                    "/detokenize", detokenize_body, lambda response: str(response["prompt"])
                )
            )
            if ids
            else None
        )
    elif server_caps.counts == "template":
        body = OpenAIDialect().build_body(
            ChatRequest(PROBE_MESSAGES, 1, prefix=prefix), server_caps
        )
        text = call_or_none(
            lambda: client.post("/apply-template", body, lambda response: str(response["prompt"]))
        )
    else:
        return server_caps
    check_rendered_probe(text, server_caps.server_type)
    return replace(server_caps, goes_on=bool(text and text.endswith(prefix)))


def _probe_thinking(client: HttpClient, dialect: OpenAIDialect, server_caps: ServerCaps) -> bool:
    """Whether requested thoughts are reported apart from the answer."""
    response = call_or_none(
        lambda: send_request(
            client, dialect, server_caps, ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS, think=True)
        )
    )
    return bool(response and response.thoughts)
