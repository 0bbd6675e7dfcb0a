"""A server that listens on a port of this machine, for clients with an API key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtask.client import MedtaskClient, connect
from medtask.server.access.roles import Role, Scope
from support.live_server import run_live_server
from support.server import ServerUnderTest


@dataclass
class ApiServer(ServerUnderTest):
    """A server under test with an address."""

    url: str = ""

    def connect_client(self, role: Role = Role.TRAINER, *scopes: Scope) -> MedtaskClient:
        """A client with a key; default: all scopes of the role."""
        return connect(self.url, key=self.create_key(role, *scopes))


@contextmanager
def run_api_server(folder: Path, database_url: str = "", **settings: Any) -> Iterator[ApiServer]:
    """Serve an application on a free port until the block ends."""
    settings.setdefault("workers", 0)
    with run_live_server(folder, database_url, **settings) as live:
        yield ApiServer(live.app, live.settings, live.database, None, url=live.address)  # type: ignore[arg-type]
