"""Finds the models of servers on this machine, at their default addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from medtask.engines.http.client import HttpClient
from medtask.engines.http.endpoint import find_endpoint
from medtask.errors import MedtaskError

_LOCAL_SERVERS = {
    "ollama": ("api/tags", "models", "name"),
    "llama-server": ("models", "data", "id"),
    "vllm-server": ("models", "data", "id"),
}
_CONNECT_S = 0.3
_ANSWER_S = 3.0


def find_local_models() -> Iterator[str]:
    """References of the models that servers on this machine offer."""
    for preset, (path, key, name) in _LOCAL_SERVERS.items():
        try:
            endpoint = find_endpoint(f"{preset}:any")
            # Usually the connection is refused, which HttpClient would retry.
            socket.create_connection(
                (endpoint.addresses[0], endpoint.port), timeout=_CONNECT_S
            ).close()
            with HttpClient(endpoint, concurrency=1, deadline_s=_ANSWER_S, attempts=1) as client:
                listed = (client.get(path) or {}).get(key)
        except (MedtaskError, OSError):
            continue
        yield from (
            f"{preset}:{entry[name]}"
            for entry in listed or ()
            if isinstance(entry, dict) and isinstance(entry.get(name), str)
        )
