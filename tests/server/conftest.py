"""Servers on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from sqlalchemy import make_url

from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from support.postgres import MISSING_POSTGRES, POSTGRES, PostgresServer, run_postgres
from support.server import ServerUnderTest, run_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; each test creates its own database."""
    if not POSTGRES:
        pytest.skip(MISSING_POSTGRES)
    pytest.importorskip("psycopg", reason="the extra postgresql is not installed")
    with run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a PostgreSQL database with all tables, which others are copies of."""
    url = postgres.create_database()
    open_database(ServerSettings(tmp_path_factory.mktemp("template"), url)).close()
    return str(make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without tables, on SQLite and on PostgreSQL; "" is SQLite in the data
    folder.
    """
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@contextmanager
def run_chosen_server(request: pytest.FixtureRequest, folder: Path) -> Iterator[ServerUnderTest]:
    """Run a server on the database of the fixture's parameter."""
    url = ""
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = postgres.create_database(request.getfixturevalue("migrated_template"))
    with run_server(folder, url) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerUnderTest]:
    """A server of all tests of a module, on SQLite and on PostgreSQL."""
    with run_chosen_server(request, tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server with an empty database, on SQLite and on PostgreSQL."""
    with run_chosen_server(request, tmp_path / "data") as running:
        yield running
