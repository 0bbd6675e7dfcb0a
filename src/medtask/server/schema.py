"""All tables of the server, and how a database gets them."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from medtask.server.access import tables as access_tables
from medtask.server.database.connect import Database, create_sqlite_file
from medtask.server.database.revisions import is_current
from medtask.server.jobs import tables as jobs_tables
from medtask.server.review import tables as review_tables
from medtask.server.settings import ServerSettings
from medtask.server.storage import tables as storage_tables

# Every module with tables is imported here, so that the metadata of `Base` is complete. After a
# change of tables: `python -m medtask.server.schema "what changes"` writes the migration.
TABLE_MODULES = (access_tables, review_tables, jobs_tables, storage_tables)


def open_database(settings: ServerSettings) -> Database:
    """Create the data folder and the database if they do not exist, and connect.

    Raises:
        UsageError: The database URL is not valid.
        InputError: A newer version of medtask has written the database.
    """
    settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_sqlite_file(settings.sqlalchemy_url)
    database = Database(settings.sqlalchemy_url)
    try:
        if not is_current(database):
            from medtask.server.database.migrate import upgrade_database

            upgrade_database(database)
    except BaseException:
        database.close()
        raise
    return database


def write_revision(message: str) -> None:
    """Write the migration from the last revision to the tables as they are."""
    from alembic import command
    from alembic.script import ScriptDirectory

    from medtask.server.database.migrate import make_config

    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'empty.db'}")
        with closing(database), database.engine.begin() as connection:
            config = make_config(connection)
            command.upgrade(config, "head")
            count = len(list(ScriptDirectory.from_config(config).walk_revisions()))
            command.revision(config, message, autogenerate=True, rev_id=f"{count + 1:04}")


if __name__ == "__main__":
    write_revision(sys.argv[1])
