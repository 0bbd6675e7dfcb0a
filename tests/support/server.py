"""A server inside the test process, and clients of users with each role."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from medtask.server.access import accounts, api_keys
from medtask.server.access.guard import CSRF_HEADER, get_cookie_name
from medtask.server.access.roles import Role, Scope, User
from medtask.server.access.secrets import make_csrf_token
from medtask.server.app import create_app
from medtask.server.database.connect import Database
from medtask.server.schema import open_database
from medtask.server.settings import DATABASE_FILE, ServerSettings

BASE_URL = "http://127.0.0.1:8000"


@dataclass
class ServerUnderTest:
    """The application with its database.

    Attributes:
        users: The user of each role, once a client was made for it.
    """

    app: FastAPI
    settings: ServerSettings
    database: Database
    portal_client: TestClient
    users: dict[Role, User] = field(default_factory=dict)

    def get_user(self, role: Role) -> User:
        """A user with this role, without a password."""
        if role not in self.users:
            with self.database.write() as session:
                account = accounts.create_account(session, f"test {role.label}", role)
            self.users[role] = User(account.id, account.name, role)
        return self.users[role]

    def connect(self, role: Role | None = None) -> TestClient:
        """A client of a browser: signed in with a role, or not signed in."""
        client = self._copy_client()
        if role is not None:
            user = self.get_user(role)
            with self.database.write() as session:
                token = accounts.sign_in(session, accounts.get_account(session, user.id), 1)
            client.cookies.set(get_cookie_name(self.settings), token)
            client.headers[CSRF_HEADER] = make_csrf_token(token)
        return client

    def connect_with_key(self, role: Role, *scopes: Scope) -> TestClient:
        """A client with an API key; default: all scopes of the role."""
        client = self._copy_client()
        client.headers["Authorization"] = f"Bearer {self.create_key(role, *scopes)}"
        return client

    def create_key(self, role: Role, *scopes: Scope) -> str:
        """An API key; default: all scopes of the role."""
        user = self.get_user(role)
        chosen = scopes or [s for s in Scope if api_keys.ROLE_OF_SCOPE[s] <= role]
        with self.database.write() as session:
            _, secret = api_keys.create_key(session, user, "test", chosen)
        return secret

    def _copy_client(self) -> TestClient:
        client = TestClient(
            self.app, base_url=BASE_URL, raise_server_exceptions=False, follow_redirects=False
        )
        # The app's resources live in the event loop of the client that entered its lifespan.
        client.portal = self.portal_client.portal
        return client


@cache
def _read_migrated_file() -> bytes:
    """A SQLite database with all tables; it is migrated once in each test process."""
    with tempfile.TemporaryDirectory() as folder:
        open_database(ServerSettings(Path(folder))).close()
        return (Path(folder) / DATABASE_FILE).read_bytes()


def _place_migrated_file(path: Path) -> None:
    """Write an empty database with all tables, unless the file exists."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_read_migrated_file())


def open_fast_database(settings: ServerSettings) -> Database:
    """Open the database; on SQLite this process does not wait for the disk when it writes.

    A commit is in the file all the same, for this process and others, unless the machine stops.
    """
    if not settings.database_url:
        _place_migrated_file(settings.data_folder / DATABASE_FILE)
    database = open_database(settings)
    if database.is_sqlite:

        @event.listens_for(database.engine, "connect")
        def configure(connection: Any, record: object) -> None:
            connection.execute("PRAGMA synchronous = OFF")

        database.engine.dispose()  # connections that are open wait
    return database


@contextmanager
def run_server(folder: Path, database_url: str = "", **settings: Any) -> Iterator[ServerUnderTest]:
    """Run the application, with its resources, until the block ends."""
    # Tests that run jobs start a worker themselves.
    settings.setdefault("workers", 0)
    chosen = ServerSettings(data_folder=folder, database_url=database_url, **settings)
    database = open_fast_database(chosen)
    app = create_app(chosen, database)
    try:
        with TestClient(app, base_url=BASE_URL) as client:
            yield ServerUnderTest(app, chosen, database, client)
    finally:
        database.close()
