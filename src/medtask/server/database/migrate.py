"""Migrations of the database: an older one is upgraded, a newer one is refused.

After a change of tables: `python -m medtask.server.schema "what changes"` writes the revision, to
be read before it is committed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from medtask.errors import InputError
from medtask.server.database import revisions
from medtask.server.database.connect import Database

_LOCK_NUMBER = 7_246_002  # of PostgreSQL's advisory lock: one process migrates


def upgrade_database(database: Database) -> None:
    """Bring the tables to the current revision; a SQLite file is copied before.

    Of several processes one migrates; the others wait, and find nothing left to do.

    Raises:
        InputError: A newer version of medtask has written the database.
    """
    config = make_config()
    scripts = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in scripts.walk_revisions()}
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise InputError(
                "a newer version of medtask has written this database",
                fix="use that version, or the copy that it made beside the database",
            )
        if current == scripts.get_current_head():
            return
        if current is not None:
            _copy_sqlite_file(database, current)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def make_config(connection: Connection | None = None) -> Config:
    """The configuration of alembic."""
    config = Config()
    config.set_main_option("file_template", "revision_%%(rev)s")
    config.set_main_option("script_location", str(revisions.MIGRATIONS_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _copy_sqlite_file(database: Database, revision: str) -> None:
    path = database.engine.url.database
    if not database.is_sqlite or not path:
        return
    copy = Path(f"{path}.{revision}.copy")
    copy.touch(mode=0o600)
    # Another connection reads what is committed, while this process's transaction waits.
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
