"""What an Ollama server can do with a model, found out at start.

Source: docs/api.md, api/types.go and server/routes.go of github.com/ollama/ollama: /api/version,
/api/tags, /api/show, /api/chat.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from medtask.engines.http.client import Client, Refused, Unanswered
from medtask.engines.http.ollama import Ollama
from medtask.engines.http.probe import (
    HELLO,
    ROOM,
    ask,
    attempt,
    choose_model,
    find_hold,
    find_logprobs,
)
from medtask.engines.http.server import Traits, Wish
from medtask.errors import EngineError, ModelNotFound, UsageError

DEFAULT_CONTEXT = 8192  # tokens; more takes more memory, whether it is used or not
SAFE_VERSION = (0, 17, 1)  # earlier ones can be made to hand out memory by a crafted model file
LOGPROBS_VERSION = (0, 12, 11)
UNCUT_VERSION = (
    0,
    12,
    6,
)  # earlier ones know no `truncate`: they cut long prompts off without a word


def probe_ollama(client: Client, model: str | None, context: int | None) -> tuple[Traits, str]:
    """The traits of an Ollama server and the digest of the model's file.

    Raises ModelNotFound where the model is not there, UsageError where it runs in Ollama's cloud.
    """
    dialect = Ollama()
    version = _ask_version(client)
    entries = [
        entry
        for entry in (client.get("api/tags") or {}).get("models") or ()
        if isinstance(entry, dict)
    ]
    name = choose_model(client, model, [str(entry.get("name")) for entry in entries])
    entry = next((entry for entry in entries if _same(str(entry.get("name")), name)), {})
    shown = _show(client, name)
    if (
        entry.get("remote_host")
        or shown.get("remote_host")
        or entry.get("remote_model")
        or shown.get("remote_model")
    ):
        raise UsageError(
            f"{name} runs in Ollama's cloud, not on this machine",
            fix="name a model that the server runs itself",
        )
    told = str(version.get("version", ""))
    able = shown.get("capabilities") or ()
    traits = Traits(
        "Ollama",
        name,
        version=told,
        context=_choose_context(shown, context),
        thinks="thinking" in able,
        notes=_note_version(told),
    )
    reply = ask(client, dialect, traits, Wish(HELLO, ROOM))
    again = ask(client, dialect, traits, Wish(HELLO, ROOM))
    # Old versions tell only the tokens that were not in the cache of the question before, or none
    # where all were.
    counted = reply.prompt_tokens is not None and reply.prompt_tokens == again.prompt_tokens
    counted = counted and (_read_version(told) or (0,)) >= UNCUT_VERSION
    traits = replace(
        traits, answers_as=reply.model, usage=counted, goes_on=_goes_on(client, dialect, traits)
    )
    traits = find_logprobs(client, dialect, find_hold(client, dialect, traits, ("format",)))
    return traits, str(entry.get("digest", ""))


def _ask_version(client: Client) -> dict[str, Any]:
    try:
        version = client.get("api/version")
    except Unanswered:
        version = None
    if version is None:
        raise EngineError(
            f"no Ollama server answers at {client.endpoint.url}",
            fix="start it with `ollama serve`, or say in OLLAMA_HOST where it runs",
        )
    return version


def _show(client: Client, name: str) -> dict[str, Any]:
    try:
        shown: dict[str, Any] = client.post("api/show", {"model": name}, dict)
    except Refused as refused:
        if refused.status != 404:
            raise
        raise ModelNotFound(
            f"the Ollama server at {client.endpoint.url} has no model called {name}",
            fix=f"ollama pull {name}",
        ) from None
    return shown


def _choose_context(shown: dict[str, Any], wanted: int | None) -> int:
    """Tokens of context to ask for: as wanted, or a size that machines have memory for; never more
    than the model has.
    """
    facts = shown.get("model_info") or {}
    sizes = [
        size
        for name, size in facts.items()
        if name.endswith(".context_length") and isinstance(size, int)
    ]
    most = min(sizes, default=None)
    if wanted is not None and most is not None and wanted > most:
        raise UsageError(
            f"the model reads at most {most:,} tokens, fewer than {wanted:,}",
            fix=f"set --context-tokens to {most} or less",
        )
    return wanted or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)


def _goes_on(client: Client, dialect: Ollama, traits: Traits) -> bool:
    """Whether the model's template leaves a last turn of the assistant open; the server renders it
    without asking the model.
    """
    lead = "The word is"
    body = dialect.write(Wish(HELLO, 1, lead=lead), traits) | {"_debug_render_only": True}

    def read(told: Any) -> str:
        info = (
            told.get("_debug_info") if isinstance(told, dict) else None
        )  # versions before 0.11.5 just answer
        return str(info.get("rendered_template", "")) if isinstance(info, dict) else ""

    text = attempt(lambda: client.post(dialect.path, body, read, retries_of_parse=0))
    return bool(text and text.endswith(lead))


def _read_version(told: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else None


def _note_version(told: str) -> tuple[str, ...]:
    version = _read_version(told)
    notes = []
    if version is None or version < SAFE_VERSION:
        notes.append(
            f"Ollama {told or 'of unknown version'} has known holes: update it to "
            f"{'.'.join(map(str, SAFE_VERSION))} or later"
        )
    if version is not None and version < LOGPROBS_VERSION:
        notes.append(f"Ollama tells probabilities since {'.'.join(map(str, LOGPROBS_VERSION))}")
    return tuple(notes)


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same model: without a tag, the tag is ``latest``."""
    return one.removesuffix(":latest") == other.removesuffix(":latest")
