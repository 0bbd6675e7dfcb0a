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

from medtask.engines.http.client import Client, Refused
from medtask.engines.http.closed import find_choice
from medtask.engines.http.counting import read_ids, write_tokenize
from medtask.engines.http.openai import SWITCHED, OpenAI
from medtask.engines.http.server import Dialect, Hold, Reply, Step, Traits, Wish
from medtask.errors import EngineError, ModelNotFound, UsageError
from medtask.records import Message

T = TypeVar("T")

# No model says these by itself.
WORDS = ("quorfblat", "zinblemog")
_SCHEMA = {
    "type": "object",
    "properties": {WORDS[0]: {"type": "boolean"}},
    "required": [WORDS[0]],
    "additionalProperties": False,
}
HELLO = (Message("user", "Say hello."),)
ROOM = 32  # tokens for an answer to a probe
THINKING_ROOM = 1024  # more for a server whose model thinks whether it was asked to or not
TOPS = (20, 5)  # OpenAI and Ollama tell 20 at most, some servers 5
_HALF = math.log(
    0.45
)  # of two words the greedy one has half at least, where only those two are left


def probe_openai(client: Client, model: str | None, context: int | None) -> Traits:
    """The traits of an OpenAI-compatible server.

    Raises ModelNotFound or UsageError where it is not clear which model is meant, EngineError where
    the server cannot chat.
    """
    dialect = OpenAI()
    azure = client.endpoint.dialect == "azure"
    # `transformers serve` answers with HTTP 500 where its cache was never used; whoever names the
    # model needs no list.
    listed = (
        None if azure else attempt(lambda: client.get("models")) if model else client.get("models")
    )
    entries = [
        entry
        for entry in (listed or {}).get("data") or ()
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]
    traits = _find_kind(client, choose_model(client, model, [entry["id"] for entry in entries]))
    entry = next((entry for entry in entries if entry["id"] == traits.model), {})
    traits, reply = _greet(client, dialect, traits, [entry["id"] for entry in entries])
    told = traits.context or entry.get("max_model_len")
    known = [size for size in (told, context) if isinstance(size, int) and size > 0]
    traits = replace(
        traits,
        answers_as=reply.model,
        usage=reply.prompt_tokens is not None,
        muses=bool(reply.thoughts),
        thinks=bool(reply.thoughts),
        context=min(known, default=None),
    )
    if traits.kind in SWITCHED and not traits.thinks:
        traits = replace(traits, thinks=_can_think(client, dialect, traits))
    holds: tuple[Hold, ...] = ("choice", "grammar", "json_schema", "json_object")
    traits = find_hold(client, dialect, traits, holds)
    return find_logprobs(client, dialect, _find_tokenizer(client, traits))


def choose_model(client: Client, wanted: str | None, served: list[str]) -> str:
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
        f"{client.endpoint.url} serves {len(served)} models: {_list(served)}",
        fix=f"name one: {client.endpoint.url}#{served[0]}",
    )


def attempt(work: Callable[[], T]) -> T | None:
    """What the work gives; None where the server does not take it or answers something else. A
    server that is gone is an error.
    """
    try:
        return work()
    except Refused:
        return None
    except EngineError as error:
        # llama-cpp-python answers what it cannot do with HTTP 500, as if it were broken.
        reason = str(getattr(error.__context__, "reason", ""))
        if reason.startswith("engine_protocol") or "HTTP 5" in reason:
            return None
        raise


def ask(client: Client, dialect: Dialect, traits: Traits, wish: Wish) -> Reply:
    """One question outside a run."""
    roomy = replace(wish, max_tokens=wish.max_tokens + (THINKING_ROOM if traits.muses else 0))
    return client.post(
        dialect.path,
        dialect.write(roomy, traits),
        lambda body: dialect.read(body, traits),
        retries_of_parse=1,
    )


def find_hold(client: Client, dialect: Dialect, traits: Traits, holds: Iterable[Hold]) -> Traits:
    """By what the server can be held to a closed set and to a JSON schema, if by anything."""
    holds = tuple(holds)
    for hold in holds:
        trial = replace(traits, hold=hold)
        reply = attempt(partial(ask, client, dialect, trial, Wish(HELLO, ROOM, choices=WORDS)))
        if reply and find_choice(reply.text, WORDS, json_object=writes_json(hold)) is not None:
            traits = trial
            break
    for hold in holds:
        if not writes_json(hold):
            continue
        trial = replace(traits, schema=hold)
        reply = attempt(partial(ask, client, dialect, trial, Wish(HELLO, ROOM, schema=_SCHEMA)))
        if reply and _satisfies(reply.text):
            return trial
    return traits


def find_logprobs(client: Client, dialect: Dialect, traits: Traits) -> Traits:
    """How many of the likeliest tokens the server tells, and whether they are the model's own or
    what a constraint left.
    """
    for top in TOPS:
        wish = Wish(HELLO, ROOM, choices=WORDS if traits.hold else (), top=top)
        reply = attempt(lambda wish=wish: ask(client, dialect, traits, wish))  # type: ignore[misc]
        if reply and reply.steps and all(map(_makes_sense, reply.steps)):
            return replace(traits, top=top, raw=not traits.hold or not _is_masked(reply.steps))
    return traits


def writes_json(hold: Hold | None) -> bool:
    """Whether an answer that is held in this way is a JSON object around the choice."""
    return hold in {"json_schema", "json_object", "format"}


def _makes_sense(step: Step) -> bool:
    """Whether these can be the likeliest tokens of one place: their probabilities differ, and are
    no more than 1 together.
    """
    told = [logprob for _, logprob in step.top]
    total = math.fsum(math.exp(min(logprob, 0.0)) for logprob in told)
    return bool(told) and total < 1.05 and (len(told) == 1 or max(told) > min(told))


def _is_masked(steps: tuple[Step, ...]) -> bool:
    # A model by itself gives a made-up word next to nothing, at its first token at least.
    return all(step.logprob > _HALF for step in steps)


def _satisfies(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(value, dict) and list(value) == [WORDS[0]] and isinstance(value[WORDS[0]], bool)
    )


def _find_kind(client: Client, model: str) -> Traits:
    """Which software answers, by the endpoints that only it has."""
    if client.endpoint.remote and not client.endpoint.url.endswith("/v1"):
        return Traits("OpenAI-compatible server", model)
    version = client.get("/version")
    chat = [{"role": "user", "content": "?"}]
    if version and attempt(
        lambda: client.post("/tokenize", {"model": model, "messages": chat}, read_ids)
    ):
        return Traits("vLLM", model, version=str(version.get("version", "")), counts="chat")
    props = client.get("/props")
    if props and isinstance(props.get("default_generation_settings"), dict):
        context = props["default_generation_settings"].get("n_ctx")
        rendered = attempt(
            lambda: client.post(
                "/apply-template", {"messages": chat}, lambda body: str(body["prompt"])
            )
        )
        return Traits(
            "llama-server",
            model,
            version=str(props.get("build_info", "")),
            counts="template" if rendered else None,
            context=context if isinstance(context, int) else None,
        )
    if attempt(
        lambda: client.post(
            "/extras/tokenize/count",
            {"model": model, "input": "?"},
            lambda body: int(body["count"]),
        )
    ):
        # Its default of 1.1 makes what the prompt says less likely to be said again: labels, above
        # all.
        return Traits(
            "llama-cpp-python", model, counts="text", more={"repeat_penalty": 1.0, "min_p": 0.0}
        )
    return Traits("OpenAI-compatible server", model)


def _greet(
    client: Client, dialect: OpenAI, traits: Traits, served: list[str]
) -> tuple[Traits, Reply]:
    """The first answer, and in which words the server wants to be told how long it may be."""
    wish = Wish(HELLO, ROOM)
    refusals = []
    for limit_name, temperature in (
        ("max_tokens", True),
        ("max_completion_tokens", True),
        ("max_completion_tokens", False),
    ):
        trial = replace(traits, limit_name=limit_name, temperature=temperature)
        try:
            return trial, client.post(
                dialect.path,
                dialect.write(wish, trial),
                partial(dialect.read, traits=trial),
            )
        except Refused as refused:
            refusals.append(refused)
            if refused.status not in {400, 422}:
                break
    if served and traits.model not in served:
        raise ModelNotFound(
            f"{client.endpoint.url} serves no model called {traits.model}, but {_list(served)}",
            fix="name one of those behind the #",
        )
    raise refusals[0]


def _find_tokenizer(client: Client, traits: Traits) -> Traits:
    """Whether the server goes on with an assistant's turn, as its own template shows."""
    lead = "The word is"
    if traits.kind == "vLLM":
        body = write_tokenize(Wish(HELLO, 1, lead=lead), traits)
        ids = attempt(lambda: client.post("/tokenize", body, read_ids))
        spoken = {"model": traits.model, "tokens": list(ids or ())}
        text = ids and attempt(
            lambda: client.post("/detokenize", spoken, lambda told: str(told["prompt"]))
        )
        return replace(traits, goes_on=bool(text and text.endswith(lead)))
    if traits.kind == "llama-server":
        body = OpenAI().write(Wish(HELLO, 1, lead=lead), traits)
        text = attempt(
            lambda: client.post("/apply-template", body, lambda told: str(told["prompt"]))
        )
        return replace(traits, goes_on=bool(text and text.endswith(lead)))
    return traits


def _can_think(client: Client, dialect: OpenAI, traits: Traits) -> bool:
    """Whether thoughts come apart from the answer where they are wanted."""
    reply = attempt(lambda: ask(client, dialect, traits, Wish(HELLO, ROOM, think=True)))
    return bool(reply and reply.thoughts)


def _list(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def note_traits(traits: Traits, held: bool) -> tuple[str, ...]:
    """What does not work as one might think, in words for the manifest."""
    notes = list(traits.notes)
    if not traits.hold:
        notes.append(
            "it cannot be held to a set of answers: one outside the set is asked again once, and "
            "is a fault then"
        )
    if not held and traits.top:
        notes.append(
            "probabilities are those of the likeliest tokens along one answer (first_token), not "
            "of whole labels"
        )
    if not held and not traits.top:
        notes.append("it tells no probabilities: answers carry no confidence")
    if not traits.schema:
        notes.append("it cannot be held to a JSON schema")
    if not traits.goes_on:
        notes.append(
            "it does not go on with an answer that was begun: what leads to it is told in words "
            "in the question"
        )
    return tuple(notes)


def describe(traits: Traits) -> dict[str, Any]:
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
    return {name: getattr(traits, name) for name in names}
