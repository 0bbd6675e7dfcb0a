"""A client of a medtask server: the verbs of medtask, answered by another process or machine.

client = medtask.connect("http://127.0.0.1:8000", key="mtk_...")
client.ask("What is glaucoma?").answer
list(client.predict(model=3, rows=["resection of the colon"]))
"""

from __future__ import annotations

import os

from medtask.client.client import MedtaskClient
from medtask.client.connection import ServerConnection, ServerProblem, ServerUnreachable
from medtask.client.results import AskResult, RemoteJob, RemoteModel, RemoteRun

__all__ = [
    "AskResult",
    "MedtaskClient",
    "RemoteJob",
    "RemoteModel",
    "RemoteRun",
    "ServerProblem",
    "ServerUnreachable",
    "connect",
]

KEY_VARIABLE = "MEDTASK_KEY"


def connect(url: str, *, key: str | None = None, timeout_s: float = 120.0) -> MedtaskClient:
    """Connect to a server that `medtask serve` runs.

    Args:
        url: The address of the server, such as ``http://127.0.0.1:8000``.
        key: An API key; by default that of the environment variable ``MEDTASK_KEY``.
        timeout_s: Seconds to wait for one answer of the server.

    Raises:
        UsageError: The address is not valid, or would send the key unencrypted over a network.
        ServerUnreachable: The server does not answer.
        ServerProblem: The key is not valid.
        MissingExtra: httpx2 is not installed.
    """
    client = MedtaskClient(ServerConnection(url, key or os.environ.get(KEY_VARIABLE), timeout_s))
    try:
        client.get("/api/me")
    except BaseException:
        client.close()
        raise
    return client
