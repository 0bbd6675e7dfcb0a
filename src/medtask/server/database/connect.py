"""Connections to the database: SQLite or PostgreSQL, with transactions that read or write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from medtask.atomic_files import open_private
from medtask.errors import MissingExtra, UsageError

BUSY_TIMEOUT_S = 30
# Versions before can corrupt a database in WAL mode when two connections write and reset the log
# at the same time: https://sqlite.org/wal.html
_SAFE_WAL_VERSION = (3, 51, 3)


class Database:
    """A pool of connections.

    Attributes:
        engine: The SQLAlchemy engine.
    """

    def __init__(self, url: str) -> None:
        self.engine = _create_engine(url)
        self._reading = self.engine.execution_options(read_only=True)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back after an error.

        On SQLite there is one at a time, and it waits for its turn when it begins.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _create_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in {"sqlite", "postgresql"}:
            raise UsageError(
                f"{backend} is not a supported database",
                fix="use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
            )
        engine = create_engine(parsed, **_choose_options(backend))
    except ArgumentError as error:
        # The message would repeat the URL, possibly with a password.
        raise UsageError(
            "the database URL is not valid",
            fix="use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
        ) from error
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise MissingExtra(
            "the driver of this database is not installed",
            fix="use postgresql+psycopg://..., with: pip install 'medtask[postgresql]'",
        ) from error
    if backend == "sqlite":
        _prepare_sqlite(engine)
    return engine


def _choose_options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}}
    return {"pool_size": 10, "max_overflow": 30, "pool_pre_ping": True}


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not inside the driver
        for setting in _list_pragmas():
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads before it writes could otherwise fail in the middle.
        reads = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _list_pragmas() -> tuple[str, ...]:
    uses_wal = sqlite3.sqlite_version_info >= _SAFE_WAL_VERSION
    return (
        f"busy_timeout = {BUSY_TIMEOUT_S * 1000}",
        f"journal_mode = {'WAL' if uses_wal else 'TRUNCATE'}",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
    )


def create_sqlite_file(url: str) -> None:
    """Create the file of a SQLite database, readable by its owner only."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        os.close(open_private(Path(str(parsed.database))))


def get_database(request: Request) -> Database:
    """The database of the app that serves a request."""
    database: Database = request.app.state.database
    return database


def open_writing_session(request: Request) -> Iterator[Session]:
    with get_database(request).write() as session:
        yield session


def open_reading_session(request: Request) -> Iterator[Session]:
    with get_database(request).read() as session:
        yield session


# The scope ends the transaction before the response is sent: a client never sees a success that
# is not committed.
WriteSession = Annotated[Session, Depends(open_writing_session, scope="function")]
ReadSession = Annotated[Session, Depends(open_reading_session, scope="function")]
