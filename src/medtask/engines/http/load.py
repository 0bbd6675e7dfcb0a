"""Connects to a model server, probes it and returns a tested engine; finds local servers."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

from medtask.engines.base import FILE_FACT, EngineInfo
from medtask.engines.files.weights import hash_text
from medtask.engines.http.client import HttpClient, InvalidResponse
from medtask.engines.http.endpoint import Endpoint, find_endpoint
from medtask.engines.http.engine import HttpEngine
from medtask.engines.http.ollama import OllamaDialect
from medtask.engines.http.openai import OpenAIDialect
from medtask.engines.http.probe import call_or_none, describe_server_caps, list_limitations
from medtask.engines.http.probe_ollama import probe_ollama
from medtask.engines.http.probe_openai import probe_openai
from medtask.engines.http.prompt_logprobs import PromptLogprobScorer
from medtask.engines.http.protocol import Dialect, ServerCaps
from medtask.engines.http.token_counting import PromptTokenCounter, require_usage
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.errors import EngineError, MedtaskError
from medtask.records import Branch, Fault, Message, Prompt, Scores

CONCURRENCY = 8
DEADLINE_S = 120.0
_PROBE_ATTEMPTS = 2  # a probe that fails twice indicates a missing feature

_LOCAL_SERVERS = {
    "ollama": ("api/tags", "models", "name"),
    "llama-server": ("models", "data", "id"),
    "vllm-server": ("models", "data", "id"),
}
_LOCAL_CONNECT_S, _LOCAL_ANSWER_S = 0.3, 3.0

_PROBE_PROMPT = Prompt(
    "probe",
    (Message("user", "What is 2+2? Answer with the number alone."),),
    (Branch("", ("4", "7")),),
    "2+2",
)


def load_http(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> HttpEngine:
    """Connect to a model server (for references see find_endpoint) and probe it.

    Raises:
        UsageError: The address or an option is not valid.
        ModelNotFound: The server does not have the model.
        EngineError: The server cannot be reached, or does not report what is required.
    """
    endpoint = find_endpoint(reference, allow_remote=options.allow_remote)
    deadline_s = options.deadline_s or DEADLINE_S
    with HttpClient(
        endpoint, concurrency=1, deadline_s=deadline_s, attempts=_PROBE_ATTEMPTS
    ) as probe_client:
        dialect, server_caps, digest = _probe_server(probe_client, endpoint, options.context_tokens)
        require_usage(server_caps, options.allow_unverified_context)
    client = HttpClient(
        endpoint, concurrency=options.concurrency or CONCURRENCY, deadline_s=deadline_s
    )
    try:
        return _start_engine(client, reference, dialect, server_caps, digest, options.tokenizer)
    except BaseException:
        client.close()
        raise


def _probe_server(
    client: HttpClient, endpoint: Endpoint, context: int | None
) -> tuple[Dialect, ServerCaps, str]:
    if endpoint.api_type == "ollama":
        return OllamaDialect(), *probe_ollama(client, endpoint.model, context)
    return OpenAIDialect(), probe_openai(client, endpoint.model, context), ""


def _start_engine(
    client: HttpClient,
    reference: str,
    dialect: Dialect,
    server_caps: ServerCaps,
    digest: str,
    tokenizer: str | None,
) -> HttpEngine:
    token_counter = PromptTokenCounter(client, dialect, server_caps, tokenizer)

    def make_engine(exact_scorer: PromptLogprobScorer | None) -> HttpEngine:
        is_exact = exact_scorer is not None
        info = _build_info(
            client.endpoint, reference, server_caps, digest, token_counter, exact=is_exact
        )
        return HttpEngine(client, dialect, server_caps, token_counter, info, exact_scorer)

    def make_exact_engine() -> HttpEngine | None:
        """An engine that scores whole candidates, if it works for one question."""
        try:
            engine = make_engine(PromptLogprobScorer(client, server_caps, token_counter))
        except InvalidResponse:
            return None
        return engine if isinstance(next(engine.score([_PROBE_PROMPT])), Scores) else None

    exact_engine = call_or_none(make_exact_engine) if server_caps.prompt_logprobs else None
    engine = exact_engine or make_engine(None)
    _check_answer(engine)
    return engine


def _check_answer(engine: HttpEngine) -> None:
    """Raise EngineError unless the server returns a usable answer to an easy question."""
    server = engine.server_caps.server_type
    result = next(engine.score([_PROBE_PROMPT]))
    if isinstance(result, Fault):
        if engine.server_caps.hold or engine.exact_scorer:
            raise EngineError(
                f"{server} did not answer an easy question ({result.reason})",
                fix="check that the server works, or use a model in this process (hf, llamacpp)",
            )
        return  # an unconstrained model may give any answer: the rows will show it
    four, seven = result.branches[0].logprobs
    if not math.isfinite(max(four, seven)) or four == seven:
        raise EngineError(
            f"{server} returns log-probabilities that are not usable",
            fix=(
                "use a vLLM server, or a model in this process (hf, llamacpp), for answers with "
                "a probability"
            ),
        )


def _build_info(
    endpoint: Endpoint,
    reference: str,
    server_caps: ServerCaps,
    digest: str,
    token_counter: PromptTokenCounter,
    *,
    exact: bool,
) -> EngineInfo:
    score = "exact" if exact else "first_token" if server_caps.top else "none"
    # Without the address: it does not affect answers, and a server may move to another port.
    identity = {
        "reference": reference,
        "server": server_caps.server_type,
        "model": server_caps.response_model or server_caps.model,
        "score": score,
        "held_by": str(server_caps.hold or "nothing"),
    }
    identity |= {"context": str(server_caps.context)} if server_caps.context else {}
    identity |= {"file": digest} if digest else {}
    if server_caps.template:
        identity[f"{FILE_FACT}chat_template"] = hash_text(server_caps.template)
    details = {
        "server_version": server_caps.version,
        "prompts_counted_by": token_counter.method,
        "probe": describe_server_caps(server_caps),
    }
    title = f"{server_caps.model} ({server_caps.server_type} at {endpoint.url})"
    return EngineInfo(
        "http",
        title,
        identity,
        destinations={endpoint.url: endpoint.addresses},
        notes=(*list_limitations(server_caps, exact), *token_counter.notes),
        details=details,
    )


def find_local_models() -> Iterator[str]:
    """References of the models of servers on this machine, at their default addresses."""
    for preset, (path, key, name) in _LOCAL_SERVERS.items():
        try:
            endpoint = find_endpoint(f"{preset}:any")
            # Usually the connection is refused, which HttpClient would retry.
            socket.create_connection(
                (endpoint.addresses[0], endpoint.port), timeout=_LOCAL_CONNECT_S
            ).close()
            with HttpClient(
                endpoint, concurrency=1, deadline_s=_LOCAL_ANSWER_S, attempts=1
            ) as client:
                listed = (client.get(path) or {}).get(key)
        except (MedtaskError, OSError):
            continue
        yield from (
            f"{preset}:{entry[name]}"
            for entry in listed or ()
            if isinstance(entry, dict) and isinstance(entry.get(name), str)
        )
