"""The revision of a database, and the newest one; read without alembic, whose import takes long."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from medtask.server.database.connect import Database

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"
_FILE_PREFIX = "revision_"


def is_current(database: Database) -> bool:
    """Whether a database has the newest revision."""
    names = (MIGRATIONS_FOLDER / "versions").glob(f"{_FILE_PREFIX}*.py")
    newest = max(path.stem.removeprefix(_FILE_PREFIX) for path in names)
    if not inspect(database.engine).has_table("alembic_version"):
        return False
    with database.read() as session:
        return session.scalars(text("SELECT version_num FROM alembic_version")).all() == [newest]
