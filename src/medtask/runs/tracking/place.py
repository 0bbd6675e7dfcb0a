"""Where a tracking server is, and whether it may be told anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from medtask.engines.http.address import look_up
from medtask.engines.http.reach import Reach, reach_of
from medtask.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """``shown``: for people, without user name and password. ``remote``: another machine, at
    ``addresses``. ``named``: its URL has a name in place of an address.
    """

    shown: str
    remote: bool = False
    addresses: tuple[str, ...] = ()
    named: bool = False


def find_place(
    url: str, *, allow_remote: bool, resolve: Callable[[str, int], Sequence[str]] = look_up
) -> Place:
    """The server at an http(s) URL. UsageError where that is another machine and ``allow_remote``
    is not given, or where no server can be.
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
    shown = f"{parts.scheme}://{shown_host}{shown_port}{parts.path.rstrip('/')}"
    numbers = _read_numbers(host)
    if not allow_remote and not numbers and host != "localhost":
        raise _refuse(shown)  # before its name is looked up: that, too, would leave this machine
    addresses = numbers or tuple(resolve(host, port))
    reaches = {reach_of(ip_address(text.partition("%")[0])) for text in addresses}
    if Reach.FORBIDDEN in reaches or not reaches:
        raise UsageError(
            f"{shown} leads to an address where no tracking server can be",
            fix="name the server by its own address",
        )
    remote = reaches != {Reach.MACHINE}
    if remote and not allow_remote:
        raise _refuse(shown)
    if Reach.PUBLIC in reaches and parts.scheme == "http":
        raise UsageError(
            f"what is tracked would travel to {shown} in clear text over the internet",
            fix="use https://",
        )
    return Place(shown, remote, addresses, named=not numbers)


def _read_numbers(host: str) -> tuple[str, ...]:
    try:
        return (str(ip_address(host)),)
    except ValueError:
        return ()


def _refuse(shown: str) -> UsageError:
    fix = (
        "if facts and figures may go there, add --allow-remote; else leave the address out: a "
        "store beside the runs is made"
    )
    return UsageError(f"{shown} is another machine: what is tracked would leave this one", fix=fix)
