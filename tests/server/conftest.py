"""Servers on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL."""
    return make_url(request)


def make_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of the fixture's parameter; "" is SQLite in the data folder."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerUnderTest]:
    """A server of all tests of a module, on SQLite and on PostgreSQL."""
    with run_server(tmp_path_factory.mktemp("server") / "data", make_url(request)) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[ServerUnderTest]:
    """A server with an empty database, on SQLite and on PostgreSQL."""
    with run_server(tmp_path / "data", database_url) as running:
        yield running
