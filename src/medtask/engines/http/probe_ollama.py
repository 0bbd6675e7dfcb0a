"""Probes an Ollama server and one of its models.

Source: docs/api.md, api/types.go and server/routes.go of github.com/ollama/ollama: /api/version,
/api/tags, /api/show, /api/chat.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from medtask.engines.http.client import HttpClient, NoUsableAnswer, RequestRejected
from medtask.engines.http.ollama import OllamaDialect
from medtask.engines.http.probe import (
    PROBE_MAX_TOKENS,
    PROBE_MESSAGES,
    call_or_none,
    check_rendered_probe,
    choose_model,
    make_template_error,
    probe_constraints,
    probe_logprobs,
    send_request,
)
from medtask.engines.http.protocol import ChatRequest, ServerCaps
from medtask.errors import EngineError, ModelNotFound, UsageError

DEFAULT_CONTEXT = 8192  # tokens; a larger context takes more memory even if it is not used
SAFE_VERSION = (0, 17, 1)  # earlier ones leak memory to a crafted model file
LOGPROBS_VERSION = (0, 12, 11)
# Earlier ones do not know `truncate` and silently truncate long prompts
NO_TRUNCATION_VERSION = (0, 12, 6)
_REMOTE_KEYS = ("remote_host", "remote_model")
# The variables of an Ollama template that hold the text of a message.
_MESSAGE_VARIABLE = re.compile(r"\.(?:Prompt|Content)\b")


def probe_ollama(
    client: HttpClient, model: str | None, context: int | None
) -> tuple[ServerCaps, str]:
    """Probe an Ollama server.

    Returns:
        The server's features, and the digest of the model's file.

    Raises:
        ModelNotFound: The server does not have the model.
        UsageError: The model runs in Ollama's cloud.
    """
    dialect = OllamaDialect()
    version = _fetch_version(client)
    entries = [
        entry
        for entry in (client.get("api/tags") or {}).get("models") or ()
        if isinstance(entry, dict)
    ]
    name = choose_model(client, model, [str(entry.get("name")) for entry in entries])
    entry = next((entry for entry in entries if _is_same_model(str(entry.get("name")), name)), {})
    model_info = _fetch_model_info(client, name)
    template = str(model_info.get("template") or "")
    if template and not _MESSAGE_VARIABLE.search(template):
        raise make_template_error("Ollama")
    if any(facts.get(key) for facts in (entry, model_info) for key in _REMOTE_KEYS):
        raise UsageError(
            f"{name} runs in Ollama's cloud, not on this machine",
            fix="name a model that the server runs itself",
        )
    version_text = str(version.get("version", ""))
    capabilities = model_info.get("capabilities") or ()
    server_caps = ServerCaps(
        "Ollama",
        name,
        version=version_text,
        context=_choose_context(model_info, context),
        thinks="thinking" in capabilities,
        notes=_list_version_notes(version_text),
    )
    request = ChatRequest(PROBE_MESSAGES, PROBE_MAX_TOKENS)
    response, repeated = (send_request(client, dialect, server_caps, request) for _ in range(2))
    # Old versions report only the tokens that were not cached, or none if all were.
    reports_usage = (
        response.prompt_tokens is not None
        and response.prompt_tokens == repeated.prompt_tokens
        and (_parse_version(version_text) or (0,)) >= NO_TRUNCATION_VERSION
    )
    server_caps = replace(
        server_caps,
        response_model=response.model,
        usage=reports_usage,
        goes_on=_probe_continuation(client, dialect, server_caps),
    )
    server_caps = probe_logprobs(
        client, dialect, probe_constraints(client, dialect, server_caps, ("format",))
    )
    return server_caps, str(entry.get("digest", ""))


def _fetch_version(client: HttpClient) -> dict[str, Any]:
    try:
        version = client.get("api/version")
    except NoUsableAnswer:
        version = None
    if version is None:
        raise EngineError(
            f"no Ollama server answers at {client.endpoint.url}",
            fix="start it with `ollama serve`, or set OLLAMA_HOST to its address",
        )
    return version


def _fetch_model_info(client: HttpClient, name: str) -> dict[str, Any]:
    try:
        model_info: dict[str, Any] = client.post("api/show", {"model": name}, dict)
    except RequestRejected as refused:
        if refused.status != 404:
            raise
        raise ModelNotFound(
            f"the Ollama server at {client.endpoint.url} has no model {name}",
            fix=f"ollama pull {name}",
        ) from None
    return model_info


def _choose_context(model_info: dict[str, Any], tokens: int | None) -> int:
    """The context to request, in tokens: the given or default number, at most the model's."""
    facts = model_info.get("model_info") or {}
    sizes = [
        size
        for name, size in facts.items()
        if name.endswith(".context_length") and isinstance(size, int)
    ]
    most = min(sizes, default=None)
    if tokens is not None and most is not None and tokens > most:
        raise UsageError(
            f"the model reads at most {most:,} tokens, fewer than {tokens:,}",
            fix=f"set --context-tokens to {most} or less",
        )
    return tokens or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)


def _probe_continuation(
    client: HttpClient, dialect: OllamaDialect, server_caps: ServerCaps
) -> bool:
    """Whether the model's template leaves the last turn open; rendered without running the
    model.
    """
    prefix = "The word is"
    body = dialect.build_body(ChatRequest(PROBE_MESSAGES, 1, prefix=prefix), server_caps) | {
        "_debug_render_only": True
    }

    def parse_template(value: Any) -> str:
        # Versions before 0.11.5 generate an answer instead.
        info = value.get("_debug_info") if isinstance(value, dict) else None
        return str(info.get("rendered_template", "")) if isinstance(info, dict) else ""

    text = call_or_none(lambda: client.post(dialect.path, body, parse_template, parse_retries=0))
    check_rendered_probe(text, "Ollama")
    return bool(text and text.endswith(prefix))


def _parse_version(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else None


def _list_version_notes(version_text: str) -> tuple[str, ...]:
    version = _parse_version(version_text)
    notes = []
    if version is None or version < SAFE_VERSION:
        notes.append(
            f"Ollama {version_text or 'of unknown version'} has known vulnerabilities: update it "
            f"to {'.'.join(map(str, SAFE_VERSION))} or later"
        )
    if version is not None and version < LOGPROBS_VERSION:
        notes.append(f"Ollama reports probabilities since {'.'.join(map(str, LOGPROBS_VERSION))}")
    return tuple(notes)


def _is_same_model(one: str, other: str) -> bool:
    """Whether two names refer to the same model: without a tag, the tag is ``latest``."""
    return one.removesuffix(":latest") == other.removesuffix(":latest")
