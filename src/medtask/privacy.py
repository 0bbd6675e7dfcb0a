"""Nothing leaves the machine: telemetry switches, and a guard that refuses connections while
records are read.

The switches only help; they change between releases of the libraries. The guard is the control that
lasts.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from medtask.errors import MedtaskError

TELEMETRY_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        # Each library's own variable: MLflow, for one, takes DO_NOT_TRACK only when it is exactly
        # "true".
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "WANDB_MODE": "disabled",  # for "offline", transformers prints a line on standard output
        "WANDB_ERROR_REPORTING": "false",
        "WEAVE_DISABLED": "true",
        "WEAVE_IMPLICITLY_PATCH_INTEGRATIONS": "false",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "FASTAPI_OTEL_AUTO_CONFIGURE": "false",
        "OLLAMA_NO_CLOUD": "1",
    }
)
OFFLINE_VARIABLES = ("MEDTASK_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class EgressError(MedtaskError):
    """Something tried to reach another machine while records were being read."""


def disable_telemetry() -> None:
    """Set every telemetry switch, over whatever the environment says. Libraries read them when they
    are imported.
    """
    os.environ.update(TELEMETRY_VARIABLES)


def find_unset_variables() -> tuple[str, ...]:
    """Names of the switches that do not have their closing value."""
    return tuple(
        name for name, value in TELEMETRY_VARIABLES.items() if os.environ.get(name) != value
    )


def is_offline() -> bool:
    """Whether the user forbids downloads (MEDTASK_OFFLINE, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
    is on).
    """
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in OFFLINE_VARIABLES
    )


@dataclass(slots=True)
class NetworkGuard:
    """What the network guard saw: how many connections to other machines were tried, and refused.
    ``allowed_addresses``: IP addresses.
    """

    attempts: int = 0
    allowed_addresses: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address] = frozenset()


_active_guards: list[NetworkGuard] = []
_hook_installed = False


@contextmanager
def block_network(allowed_addresses: Collection[str] = ()) -> Iterator[NetworkGuard]:
    """Refuse every connection of this process that is not to the machine itself. Child processes
    are not covered.

    ``allowed_addresses``: IP addresses that may be reached all the same, by number and not by name:
    those of the server that the user has let records go to. Of guards inside one another each has
    to allow an address.
    """
    global _hook_installed  # noqa: PLW0603 - an audit hook can be added to a process once and never be removed
    if not _hook_installed:
        sys.addaudithook(_audit_connection)
        _hook_installed = True
    guard = NetworkGuard(allowed_addresses=frozenset(map(ipaddress.ip_address, allowed_addresses)))
    _active_guards.append(guard)
    try:
        yield guard
    finally:
        # Not remove(): two guards that have seen the same are equal.
        _active_guards[:] = [other for other in _active_guards if other is not guard]


def _audit_connection(event: str, args: tuple[object, ...]) -> None:
    if not _active_guards:
        return
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) and address else None
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = args[0]
    else:
        return
    if host is None:
        return
    refusing = [guard for guard in _active_guards if not _is_allowed(host, guard)]
    for guard in refusing:
        guard.attempts += 1
    if not refusing:
        return
    raise EgressError(
        "a connection to another machine was refused: while records are read, nothing may leave "
        "this one",
        fix=(
            "report which command did this; medtask and its libraries have no reason to connect "
            "here"
        ),
    )


def _is_allowed(host: object, guard: NetworkGuard) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if text in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address in guard.allowed_addresses
