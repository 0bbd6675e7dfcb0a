"""Telemetry switches, and a guard that blocks the network while records are processed.

The switches change between releases of the libraries; the guard does not depend on them.
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
        # Each library has its own variable: MLflow accepts DO_NOT_TRACK only as "true".
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "WANDB_MODE": "disabled",  # with "offline", transformers would print to standard output
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
    """A connection to another machine was blocked while records were processed."""


def disable_telemetry() -> None:
    """Disable telemetry in the environment; call it before the libraries are imported."""
    os.environ.update(TELEMETRY_VARIABLES)


def find_unset_variables() -> tuple[str, ...]:
    """Names of the telemetry variables that do not have their disabling value."""
    return tuple(
        name for name, value in TELEMETRY_VARIABLES.items() if os.environ.get(name) != value
    )


def is_offline() -> bool:
    """Whether downloads are disabled by one of `OFFLINE_VARIABLES`."""
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in OFFLINE_VARIABLES
    )


@dataclass(slots=True)
class NetworkGuard:
    """State of a network guard.

    Attributes:
        attempts: Number of blocked connections.
        allowed_addresses: IP addresses of other machines that are not blocked.
    """

    attempts: int = 0
    allowed_addresses: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address] = frozenset()


_active_guards: list[NetworkGuard] = []
_hook_installed = False


@contextmanager
def block_network(allowed_addresses: Collection[str] = ()) -> Iterator[NetworkGuard]:
    """Block every connection of this process to other machines; child processes are not covered.

    Args:
        allowed_addresses: IP addresses of other machines that are not blocked. An address has to be
            allowed by every active guard. Names are always blocked.

    Yields:
        The guard, which counts blocked connections.

    Raises:
        EgressError: In the code that tries to connect.
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
        # Not remove(), because guards with equal state compare equal.
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
        "a connection to another machine was blocked while records were processed",
        fix=(
            "report this with the command; medtask and its libraries need no connection at this "
            "point"
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
