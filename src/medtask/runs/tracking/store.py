"""Addresses of tracking servers, and whether data may be sent there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from medtask.engines.http.address_scopes import (
    AddressScope,
    classify_address,
    is_ip_address,
    parse_addresses,
)
from medtask.engines.http.endpoint import resolve_host
from medtask.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrackingStore:
    """A tracking store.

    Attributes:
        display_name: The name to show, without user name and password.
        remote: Whether it is on another machine.
        addresses: The IP addresses of the server.
        by_host_name: Whether its URL has a host name instead of an address.
    """

    display_name: str
    remote: bool = False
    addresses: tuple[str, ...] = ()
    by_host_name: bool = False


def find_tracking_store(
    url: str, *, allow_remote: bool, resolve: Callable[[str, int], Sequence[str]] = resolve_host
) -> TrackingStore:
    """The server at an http(s) URL.

    Raises UsageError if the URL is not valid, or the server is remote without ``allow_remote``.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            "the tracking server has no address of the form http://HOST:PORT",
            fix="write it as http://127.0.0.1:5000",
        )
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = f":{parts.port}" if parts.port else ""
    display_name = f"{parts.scheme}://{shown_host}{shown_port}{parts.path.rstrip('/')}"
    by_host_name = not is_ip_address(host)
    if not allow_remote and by_host_name and host != "localhost":
        raise _make_remote_error(
            display_name
        )  # before the name is resolved, because a DNS query also leaves this machine
    addresses = tuple(resolve(host, port)) if by_host_name else (host,)
    scopes = set(map(classify_address, parse_addresses(addresses)))
    if AddressScope.FORBIDDEN in scopes or not scopes:
        raise UsageError(
            f"{display_name} leads to an address where no tracking server can be",
            fix="name the server by its own address",
        )
    remote = scopes != {AddressScope.LOOPBACK}
    if remote and not allow_remote:
        raise _make_remote_error(display_name)
    if AddressScope.PUBLIC in scopes and parts.scheme == "http":
        raise UsageError(
            f"what is tracked would travel to {display_name} in clear text over the internet",
            fix="use https://",
        )
    return TrackingStore(display_name, remote, addresses, by_host_name=by_host_name)


def _make_remote_error(display_name: str) -> UsageError:
    fix = (
        "if facts and figures may go there, add --allow-remote; else leave the address out: a "
        "store beside the runs is made"
    )
    return UsageError(
        f"{display_name} is another machine: what is tracked would leave this one", fix=fix
    )


def describe_error(error: Exception) -> str:
    """The type and code of an error, without its message."""
    code = getattr(error, "error_code", None)
    inner = next((cause for cause in (error.__cause__, error.__context__) if cause), None)
    parts = [type(error).__name__, code if isinstance(code, str) and code.isidentifier() else None]
    parts += [type(inner).__name__] if inner else []
    return ", ".join(part for part in parts if part)
