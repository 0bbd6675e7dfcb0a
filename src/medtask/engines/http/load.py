"""From a reference to an engine whose server was seen to work."""

from __future__ import annotations

import math
from typing import Any

from medtask.engines.base import EngineInfo
from medtask.engines.http.address import Endpoint, find_endpoint
from medtask.engines.http.client import Client, Malformed
from medtask.engines.http.counting import Counter, check_usage
from medtask.engines.http.engine import HttpEngine
from medtask.engines.http.ollama import Ollama
from medtask.engines.http.openai import OpenAI
from medtask.engines.http.probe import attempt, describe, note_traits, probe_openai
from medtask.engines.http.probe_ollama import probe_ollama
from medtask.engines.http.server import Dialect, Traits
from medtask.engines.http.vllm import ExactReader
from medtask.errors import EngineError, UsageError
from medtask.records import Branch, Fault, Message, Prompt, Scores

CONCURRENCY = 8
DEADLINE_S = 120.0
_PROBE_ATTEMPTS = 2  # a probe that fails twice shows what the server cannot do

# What other engines can be told, with the value that means nothing.
_ELSEWHERE = {"dtype": "auto", "device": "auto", "quantize": None, "memory": None, "adapter": None}
_SUM = Prompt(
    "probe",
    (Message("user", "What is 2+2? Answer with the number alone."),),
    (Branch("", ("4", "7")),),
    "2+2",
)


def load_http(
    reference: str,
    *,
    allow_remote: bool = False,
    deadline_s: float = DEADLINE_S,
    concurrency: int = CONCURRENCY,
    context: int | None = None,
    allow_unverified_context: bool = False,
    tokenizer: str | None = None,
    **others: Any,
) -> HttpEngine:
    """An HttpEngine for a server's reference (see find_endpoint), probed.

    ``deadline_s``: for one request; ``concurrency``: most requests at a time. ``context``: tokens
    of prompt and answer together, where the server does not tell or can be told (Ollama).
    ``allow_unverified_context``: take a server that does not tell how many tokens it read.
    ``tokenizer``: a model whose tokenizer counts prompts here. Options of other engines are
    refused, unless they have their default.

    Raises UsageError, ModelNotFound, or EngineError where the server cannot be reached or cannot be
    trusted.
    """
    for name, value in others.items():
        if name not in _ELSEWHERE or value != _ELSEWHERE[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} means nothing to a model server",
                fix="leave it out: the server decides how it runs its model",
            )
    endpoint = find_endpoint(reference, allow_remote=allow_remote)
    with Client(endpoint, concurrency=1, deadline_s=deadline_s, attempts=_PROBE_ATTEMPTS) as prober:
        dialect, traits, digest = _probe(prober, endpoint, context)
        check_usage(traits, allow_unverified_context)
    client = Client(endpoint, concurrency=concurrency, deadline_s=deadline_s)
    try:
        return _start(client, reference, dialect, traits, digest, tokenizer)
    except BaseException:
        client.close()
        raise


def _probe(client: Client, endpoint: Endpoint, context: int | None) -> tuple[Dialect, Traits, str]:
    if endpoint.dialect == "ollama":
        return Ollama(), *probe_ollama(client, endpoint.model, context)
    return OpenAI(), probe_openai(client, endpoint.model, context), ""


def _start(
    client: Client,
    reference: str,
    dialect: Dialect,
    traits: Traits,
    digest: str,
    tokenizer: str | None,
) -> HttpEngine:
    counter = Counter(client, dialect, traits, tokenizer)
    info = _describe(client.endpoint, reference, traits, digest, counter, held=False)
    exact = (
        attempt(lambda: _try_exact(client, dialect, traits, counter, info))
        if traits.kind == "vLLM"
        else None
    )
    info = _describe(client.endpoint, reference, traits, digest, counter, held=exact is not None)
    engine = HttpEngine(client, dialect, traits, counter, info, exact)
    _check_sum(engine)
    return engine


def _try_exact(
    client: Client, dialect: Dialect, traits: Traits, counter: Counter, info: EngineInfo
) -> ExactReader | None:
    """A reader of whole candidates, if the server gives it what it needs for one question."""
    try:
        exact = ExactReader(client, traits, counter)
    except Malformed:
        return None
    said = next(HttpEngine(client, dialect, traits, counter, info, exact).score([_SUM]))
    return exact if isinstance(said, Scores) else None


def _check_sum(engine: HttpEngine) -> None:
    """EngineError unless the server answers an easy question in a way that can be used: no run
    scores at chance.
    """
    said = next(engine.score([_SUM]))
    if isinstance(said, Fault):
        if engine.traits.hold or engine.exact:
            raise EngineError(
                f"{engine.traits.kind} did not answer an easy question ({said.reason})",
                fix="see that the server works, or use a model in this process (hf, llamacpp)",
            )
        return  # a model that is free to answer anything may: rows tell
    four, seven = said.branches[0].logprobs
    if not math.isfinite(max(four, seven)) or four == seven:
        raise EngineError(
            f"{engine.traits.kind} tells log-probabilities that mean nothing",
            fix=(
                "use a vLLM server, or a model in this process (hf, llamacpp), for answers with "
                "a probability"
            ),
        )


def _describe(
    endpoint: Endpoint, reference: str, traits: Traits, digest: str, counter: Counter, *, held: bool
) -> EngineInfo:
    score = "exact" if held else "first_token" if traits.top else "none"
    # The address is none of the facts that change an answer: the same model may come to another
    # port.
    identity = {
        "reference": reference,
        "server": traits.kind,
        "model": traits.answers_as or traits.model,
        "score": score,
        "held_by": str(traits.hold or "nothing"),
    }
    identity |= {"context": str(traits.context)} if traits.context else {}
    identity |= {"file": digest} if digest else {}
    details: dict[str, Any] = {
        "url": endpoint.url,
        "remote": endpoint.remote,
        "addresses": list(endpoint.addresses),
        "server_version": traits.version,
        "prompts_counted_by": counter.method,
        "probe": describe(traits),
        "notes": list(note_traits(traits, held) + counter.notes),
    }
    title = f"{traits.model} ({traits.kind} at {endpoint.url})"
    return EngineInfo("http", title, identity, details)
