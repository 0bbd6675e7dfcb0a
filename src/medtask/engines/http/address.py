"""Where a reference leads: from what a user types to a server whose addresses were looked up once
and checked.

Connections go to the checked addresses alone, never to what a second look-up of the name would give
(DNS rebinding). The rules are those of OWASP's cheat sheet on server-side request forgery, as an
allow-list: this machine is fine, any other needs the user's word, and what can only be a trick
(metadata services, addresses in disguise) is refused whatever the user says.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from types import MappingProxyType
from typing import Literal
from urllib.parse import parse_qsl

from medtask.engines.http.reach import Reach, reach_of, unwrap
from medtask.errors import EngineError, UsageError

Dialect = Literal["openai", "ollama", "azure"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked server. ``url``: what may be shown: the base that paths are added to. ``query``
    goes with every call.

    ``addresses``: the checked IP addresses of ``host``, in the order in which to try them.
    ``remote``: not this machine. ``key_name``: the environment variable that holds the key, set or
    not; None where no key is sent.
    """

    url: str
    dialect: Dialect
    model: str | None
    host: str
    port: int
    addresses: tuple[str, ...]
    remote: bool
    key_name: str | None = None
    query: str = ""

    def locate(self, path: str) -> str:
        """The URL of a call: ``chat/completions`` is below the base, ``/tokenize`` beside its
        ``/v1``.
        """
        base = self.url.removesuffix("/v1") if path.startswith("/") else self.url
        return f"{base}/{path.removeprefix('/')}" + (f"?{self.query}" if self.query else "")

    def headers(self) -> dict[str, str]:
        """The header that carries the key, read from the environment at this moment; empty if there
        is none.
        """
        key = os.environ.get(self.key_name, "").strip() if self.key_name else ""
        if not key:
            return {}
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise UsageError(
                f"{self.key_name} holds characters that no key has",
                fix=f"set {self.key_name} to the key alone",
            )
        return {"api-key": key} if self.dialect == "azure" else {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True)
class Preset:
    """A server by name. ``base_name``: the environment variable that may name another address for
    it.
    """

    url: str
    key_name: str | None
    dialect: Dialect = "openai"
    base_name: str | None = None


KEY = "MEDTASK_API_KEY"
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "openai": Preset(
            "https://api.openai.com/v1", "OPENAI_API_KEY", base_name="OPENAI_BASE_URL"
        ),
        "llama-server": Preset("http://127.0.0.1:8080/v1", KEY),
        "vllm-server": Preset("http://127.0.0.1:8000/v1", KEY),
        "ollama": Preset("http://127.0.0.1:11434", None, "ollama"),
    }
)

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(
    r"(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
)
_PATH = re.compile(r"(/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)*/?")
# Names that clouds give to the service that hands out a machine's credentials.
_METADATA_LABELS = frozenset({"metadata", "instance-data"})
_WRITE_URL = "write it as http://HOST:PORT/v1#MODEL or https://HOST/v1#MODEL"
_RESOLVE = Callable[[str, int], Sequence[str]]


def find_endpoint(
    reference: str, *, allow_remote: bool = False, resolve: _RESOLVE | None = None
) -> Endpoint:
    """The server that a reference means: ``http(s)://HOST[:PORT][/v1]#MODEL``, or a preset:
    ``ollama:NAME``, ``groq:NAME`` and so on.

    ``allow_remote``: the user has said that records may go to another machine. ``resolve``: look a
    name up (tests). Raises UsageError where the address is malformed or forbidden, EngineError
    where a name has no address.
    """
    scheme, _, rest = reference.partition(":")
    preset = PRESETS.get(scheme)
    if preset is None:
        url, _, model = reference.partition("#")
        key_name: str | None = KEY
    elif scheme == "ollama":
        url, model, key_name = _ollama_url(os.environ.get("OLLAMA_HOST", "")), rest, None
    else:
        url, model, key_name = (
            os.environ.get(preset.base_name or "", "").strip() or preset.url,
            rest,
            preset.key_name,
        )
    if any(not character.isprintable() for character in model):
        raise UsageError(
            "the model's name holds characters that cannot be shown",
            fix="write the name as the server lists it",
        )
    if re.search(r"[:-]cloud$", model.strip(), re.IGNORECASE):
        raise UsageError(
            f"{model} runs in Ollama's cloud, not on this machine",
            fix="name a model that the server runs itself",
        )
    endpoint = _parse(url, model.strip() or None, key_name, preset)
    if not allow_remote and (
        endpoint.dialect == "azure" or (preset and url == preset.url and url.startswith("https:"))
    ):
        raise _refuse_remote(
            endpoint.host
        )  # before its name is looked up: that, too, would leave this machine
    return _check(endpoint, allow_remote, resolve or look_up)


def look_up(host: str, port: int) -> list[str]:
    """All addresses of a name, in the system's order of preference. EngineError where there are
    none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise EngineError(
            f"no address is known for {host}",
            fix="check the server's name and this machine's network",
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _parse(url: str, model: str | None, key_name: str | None, preset: Preset | None) -> Endpoint:
    """The endpoint as it is written, before any look-up: ``addresses`` empty."""
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise UsageError(
            "the server's address holds characters that an address cannot have", fix=_WRITE_URL
        )
    whole = _URL.fullmatch(url)
    if not whole or whole["scheme"].lower() not in {"http", "https"}:
        raise UsageError("a model server is reached by http:// or https://", fix=_WRITE_URL)
    if "@" in whole["place"]:
        # Not shown: what stands before the @ is a password as often as not.
        raise UsageError(
            "the server's address holds a user name",
            fix=f"leave it out, and put the key into {key_name or KEY}",
        )
    place = _PLACE.fullmatch(whole["place"])
    port_text = place["port"] if place else None
    if not place or (port_text is not None and not 0 < int(port_text) < 65536):
        raise UsageError("the server's address has no valid host and port", fix=_WRITE_URL)
    if not _PATH.fullmatch(whole["path"]):
        raise UsageError(
            "the path of the server's address is not one of an API",
            fix="end the address in /v1, or in what the server's manual says",
        )
    scheme, path = whole["scheme"].lower(), whole["path"].rstrip("/")
    host = _check_host(place["host"])
    port = int(port_text) if port_text else {"http": 80, "https": 443}[scheme]
    dialect: Dialect = preset.dialect if preset else "openai"
    if host.endswith(_AZURE):
        deployment = re.search(r"/openai/deployments/([^/]+)", path)
        dialect, key_name = "azure", "AZURE_OPENAI_API_KEY"
        model = model or (deployment[1] if deployment else None)
    elif port == 11434 and path in {"", "/api"}:
        dialect, path = "ollama", ""
    elif preset is None and not path:
        path = "/v1"
    shown = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{shown}" + (f":{port}" if port_text else "") + path
    return Endpoint(
        base, dialect, model, host, port, (), False, key_name, _check_query(whole["query"] or "")
    )


def _check_host(written: str) -> str:
    """A host as it is looked up and shown: lower case, without brackets or a final dot; no number
    in disguise.
    """
    host = written.strip("[]").removesuffix(".").lower()
    if written.startswith("[") or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some parsers and not to others, so that
        # checks can be fooled.
        try:
            return str(ip_address(host))
        except ValueError:
            raise UsageError(
                "the server's address is a number in an unusual form",
                fix="write it as four decimal numbers, or as [IPv6]",
            ) from None
    labels = host.split(".")
    if not _NAME.fullmatch(host):
        raise UsageError("the server's name is not a valid one", fix=_WRITE_URL)
    if labels[0] in _METADATA_LABELS:
        raise UsageError(
            f"{host} is the name of a cloud's metadata service, not of a model server",
            fix="name the model server",
        )
    if host == "ollama.com" or host.endswith(".ollama.com"):
        raise UsageError(
            f"{host} is Ollama's cloud",
            fix="name a server of your own: medtask sends nothing to Ollama's cloud",
        )
    return host


def _check_query(query: str) -> str:
    if query and [name for name, _ in parse_qsl(query, keep_blank_values=True)] != ["api-version"]:
        raise UsageError(
            "the server's address has a query that is not sent",
            fix=f"only ?api-version=... may stand there; keys belong into {KEY}",
        )
    if not re.fullmatch(r"[A-Za-z0-9=._-]*", query):
        raise UsageError(
            "the api-version of the server's address is not a valid one",
            fix="write it like ?api-version=2025-04-01-preview",
        )
    return query


def _check(endpoint: Endpoint, allow_remote: bool, resolve: _RESOLVE) -> Endpoint:
    """The endpoint with its addresses, all of which passed."""
    try:
        found: Sequence[str] = [str(ip_address(endpoint.host))]
    except ValueError:
        found = resolve(endpoint.host, endpoint.port)
    addresses = [unwrap(ip_address(text.partition("%")[0])) for text in found]
    reaches = {reach_of(address) for address in addresses}
    here = endpoint.host
    if not addresses:
        raise EngineError(
            f"no address is known for {here}",
            fix="check the server's name and this machine's network",
        )
    if Reach.FORBIDDEN in reaches:
        raise UsageError(
            f"{here} leads to an address where no model server can be",
            fix="name the model server by its own address",
        )
    if Reach.MACHINE in reaches and len(reaches) > 1:
        raise UsageError(
            f"{here} leads to this machine and to another at once",
            fix="name the model server by its IP address",
        )
    remote = Reach.MACHINE not in reaches
    if remote and not allow_remote:
        raise _refuse_remote(here)
    if Reach.PUBLIC in reaches and not endpoint.url.startswith("https://"):
        raise UsageError(
            f"records would travel to {here} in clear text over the internet", fix="use https://"
        )
    return replace(endpoint, addresses=tuple(dict.fromkeys(map(str, addresses))), remote=remote)


def _refuse_remote(host: str) -> UsageError:
    fix = "if they may, add --allow-remote; else name a server on this machine"
    return UsageError(f"{host} is another machine: records would leave this one", fix=fix)


def _ollama_url(written: str) -> str:
    """The server that OLLAMA_HOST means, by Ollama's rules (envconfig/config.go): scheme, port and
    brackets may be missing.
    """
    text = written.strip().strip("\"'").strip()
    scheme, mark, place = text.partition("://")
    if not mark:
        scheme, place = "http", text
    place, slash, path = place.partition("/")
    default = 11434 if not mark else {"http": 80, "https": 443}.get(scheme, 11434)
    host, _, port = place.rpartition(":")
    bare = place.strip("[]")
    if ":" not in place or _is_ip(bare):  # no port, or an IPv6 address without brackets
        host, port = bare, str(default)
    host = host.strip("[]") or "127.0.0.1"
    if _is_ip(host) and ip_address(host).is_unspecified:
        # The variable also tells Ollama's server where to listen; "everywhere" includes this
        # machine.
        host = "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{slash}{path}".rstrip("/")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
