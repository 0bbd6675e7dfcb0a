"""Resolves the server of a reference and checks its addresses.

The URL is parsed and its host name resolved once. Connections go only to the checked addresses,
never to the result of a second look-up (DNS rebinding). The rules follow OWASP's cheat sheet on
server-side request forgery, as an allow-list: this machine is allowed, other machines need
``allow_remote``, and addresses that are never those of a model server (metadata services,
obfuscated addresses) are always rejected.
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

from medtask.engines.http.address_scopes import (
    AddressScope,
    classify_address,
    is_ip_address,
    parse_addresses,
)
from medtask.errors import EngineError, UsageError

ApiType = Literal["openai", "ollama", "azure"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked server.

    Attributes:
        url: Base URL of all paths; contains no secret.
        api_type: The wire format.
        model: The model that the reference names.
        host: Name or IP address of the server.
        port: Its port.
        addresses: Checked IP addresses of the host, in the order of preference.
        remote: Whether it is another machine.
        api_key_variable: Environment variable of the API key; None if no key is sent.
        query: Query string of every call.
    """

    url: str
    api_type: ApiType
    model: str | None
    host: str
    port: int
    addresses: tuple[str, ...]
    remote: bool
    api_key_variable: str | None = None
    query: str = ""

    def build_url(self, path: str) -> str:
        """The URL of a call: ``chat/completions`` is relative to the base, ``/tokenize`` to the
        base without ``/v1``.
        """
        base = self.url.removesuffix("/v1") if path.startswith("/") else self.url
        return f"{base}/{path.removeprefix('/')}" + (f"?{self.query}" if self.query else "")

    def build_auth_headers(self) -> dict[str, str]:
        """The header with the API key, read from the environment at this moment; empty if there is
        no key.
        """
        key = os.environ.get(self.api_key_variable, "").strip() if self.api_key_variable else ""
        if not key:
            return {}
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise UsageError(
                f"{self.api_key_variable} holds characters that no key has",
                fix=f"set {self.api_key_variable} to the key alone",
            )
        return {"api-key": key} if self.api_type == "azure" else {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True)
class ServerPreset:
    """A server with a name. ``base_url_variable``: environment variable with another address."""

    url: str
    api_key_variable: str | None
    api_type: ApiType = "openai"
    base_url_variable: str | None = None


API_KEY_VARIABLE = "MEDTASK_API_KEY"
PRESETS: Mapping[str, ServerPreset] = MappingProxyType(
    {
        "groq": ServerPreset("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "openai": ServerPreset(
            "https://api.openai.com/v1", "OPENAI_API_KEY", base_url_variable="OPENAI_BASE_URL"
        ),
        "llama-server": ServerPreset("http://127.0.0.1:8080/v1", API_KEY_VARIABLE),
        "vllm-server": ServerPreset("http://127.0.0.1:8000/v1", API_KEY_VARIABLE),
        "ollama": ServerPreset("http://127.0.0.1:11434", None, "ollama"),
    }
)

_AZURE_DOMAINS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST_PORT_PATTERN = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_NAME = re.compile(
    r"(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
)
_PATH = re.compile(r"(/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)*/?")
# Host names of cloud services that return a machine's credentials.
_METADATA_LABELS = frozenset({"metadata", "instance-data"})
_URL_FIX = "write it as http://HOST:PORT/v1#MODEL or https://HOST/v1#MODEL"
_Resolver = Callable[[str, int], Sequence[str]]


def find_endpoint(
    reference: str, *, allow_remote: bool = False, resolve: _Resolver | None = None
) -> Endpoint:
    """Find the server of a reference.

    Args:
        reference: ``http(s)://HOST[:PORT][/v1]#MODEL``, or a preset such as ``ollama:NAME``.
        allow_remote: Whether records may be sent to another machine.
        resolve: Look-up of a name, replaced in tests.

    Raises:
        UsageError: The address is not valid or forbidden.
        EngineError: The name has no address.
    """
    scheme, _, rest = reference.partition(":")
    preset = PRESETS.get(scheme)
    if preset is None:
        url, _, model = reference.partition("#")
        api_key_variable: str | None = API_KEY_VARIABLE
    elif scheme == "ollama":
        url = _build_ollama_url(os.environ.get("OLLAMA_HOST", ""))
        model = rest
        api_key_variable = None
    else:
        url = os.environ.get(preset.base_url_variable or "", "").strip() or preset.url
        model = rest
        api_key_variable = preset.api_key_variable
    if any(not character.isprintable() for character in model):
        raise UsageError(
            "the model's name holds characters that are not printable",
            fix="write the name as the server lists it",
        )
    if re.search(r"[:-]cloud$", model.strip(), re.IGNORECASE):
        raise UsageError(
            f"{model} runs in Ollama's cloud, not on this machine",
            fix="name a model that the server runs itself",
        )
    endpoint = _parse_url(url, model.strip() or None, api_key_variable, preset)
    if not allow_remote and (
        endpoint.api_type == "azure" or (preset and url == preset.url and url.startswith("https:"))
    ):
        # Before the look-up of the name, which would leave this machine too.
        raise _make_remote_error(endpoint.host)
    return _check_addresses(endpoint, allow_remote, resolve or resolve_host)


def resolve_host(host: str, port: int) -> list[str]:
    """All addresses of a name in the system's order of preference; EngineError if none is found."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise EngineError(
            f"no address is known for {host}",
            fix="check the server's name and this machine's network",
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _parse_url(
    url: str, model: str | None, api_key_variable: str | None, preset: ServerPreset | None
) -> Endpoint:
    """The endpoint before any look-up: ``addresses`` is empty."""
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise UsageError("the server's address holds invalid characters", fix=_URL_FIX)
    url_match = _URL.fullmatch(url)
    if not url_match or url_match["scheme"].lower() not in {"http", "https"}:
        raise UsageError("a model server is reached by http:// or https://", fix=_URL_FIX)
    if "@" in url_match["place"]:
        # Not shown: the part before the @ may be a password.
        raise UsageError(
            "the server's address holds a user name",
            fix=f"leave it out, and put the key into {api_key_variable or API_KEY_VARIABLE}",
        )
    host_port = _HOST_PORT_PATTERN.fullmatch(url_match["place"])
    port_text = host_port["port"] if host_port else None
    if not host_port or (port_text is not None and not 0 < int(port_text) < 65536):
        raise UsageError("the server's address has no valid host and port", fix=_URL_FIX)
    if not _PATH.fullmatch(url_match["path"]):
        raise UsageError(
            "the path of the server's address is not that of an API",
            fix="end the address in /v1, or in the path of the server's documentation",
        )
    scheme, path = url_match["scheme"].lower(), url_match["path"].rstrip("/")
    host = _check_host(host_port["host"])
    port = int(port_text) if port_text else {"http": 80, "https": 443}[scheme]
    api_type: ApiType = preset.api_type if preset else "openai"
    if host.endswith(_AZURE_DOMAINS):
        deployment = re.search(r"/openai/deployments/([^/]+)", path)
        api_type, api_key_variable = "azure", "AZURE_OPENAI_API_KEY"
        model = model or (deployment[1] if deployment else None)
    elif port == 11434 and path in {"", "/api"}:
        api_type, path = "ollama", ""
    elif preset is None and not path:
        path = "/v1"
    url_host = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{url_host}" + (f":{port}" if port_text else "") + path
    return Endpoint(
        base,
        api_type,
        model,
        host,
        port,
        (),
        False,
        api_key_variable,
        _check_query(url_match["query"] or ""),
    )


def _check_host(value: str) -> str:
    """The host in lower case, without brackets or final dot; UsageError if it is not valid."""
    host = value.strip("[]").removesuffix(".").lower()
    if value.startswith("[") or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 only to some parsers.
        try:
            return str(ip_address(host))
        except ValueError:
            raise UsageError(
                "the server's address is a number in an unusual form",
                fix="write it as four decimal numbers, or as [IPv6]",
            ) from None
    labels = host.split(".")
    if not _NAME.fullmatch(host):
        raise UsageError("the server's name is not valid", fix=_URL_FIX)
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
            fix=f"only ?api-version=... is allowed; put keys into {API_KEY_VARIABLE}",
        )
    if not re.fullmatch(r"[A-Za-z0-9=._-]*", query):
        raise UsageError(
            "the api-version of the server's address is not valid",
            fix="write it like ?api-version=2025-04-01-preview",
        )
    return query


def _check_addresses(endpoint: Endpoint, allow_remote: bool, resolve: _Resolver) -> Endpoint:
    """The endpoint with its checked addresses."""
    host = endpoint.host
    addresses = parse_addresses([host] if is_ip_address(host) else resolve(host, endpoint.port))
    scopes = set(map(classify_address, addresses))
    if not addresses:
        raise EngineError(
            f"no address is known for {host}",
            fix="check the server's name and this machine's network",
        )
    if AddressScope.FORBIDDEN in scopes:
        raise UsageError(
            f"{host} leads to an address where no model server can be",
            fix="name the model server by its own address",
        )
    if AddressScope.LOOPBACK in scopes and len(scopes) > 1:
        raise UsageError(
            f"{host} leads to this machine and to another at once",
            fix="name the model server by its IP address",
        )
    remote = AddressScope.LOOPBACK not in scopes
    if remote and not allow_remote:
        raise _make_remote_error(host)
    if AddressScope.PUBLIC in scopes and not endpoint.url.startswith("https://"):
        raise UsageError(
            f"records would travel to {host} in clear text over the internet", fix="use https://"
        )
    return replace(endpoint, addresses=tuple(dict.fromkeys(map(str, addresses))), remote=remote)


def _make_remote_error(host: str) -> UsageError:
    fix = "if they may, add --allow-remote; else name a server on this machine"
    return UsageError(f"{host} is another machine: records would leave this one", fix=fix)


def _build_ollama_url(value: str) -> str:
    """The URL in OLLAMA_HOST by Ollama's rules (envconfig/config.go): scheme, port and brackets
    are optional.
    """
    text = value.strip().strip("\"'").strip()
    scheme, separator, host_port = text.partition("://")
    if not separator:
        scheme, host_port = "http", text
    host_port, slash, path = host_port.partition("/")
    default = 11434 if not separator else {"http": 80, "https": 443}.get(scheme, 11434)
    host, _, port = host_port.rpartition(":")
    bare = host_port.strip("[]")
    if ":" not in host_port or is_ip_address(bare):  # no port, or an IPv6 address without brackets
        host, port = bare, str(default)
    host = host.strip("[]") or "127.0.0.1"
    if is_ip_address(host) and ip_address(host).is_unspecified:
        # For Ollama's server the variable is the address to listen on; 0.0.0.0 includes this one.
        host = "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{slash}{path}".rstrip("/")
