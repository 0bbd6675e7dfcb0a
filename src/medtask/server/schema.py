"""All tables of the server, and how a database gets them."""

from __future__ import annotations

from medtask.server.access import tables as access_tables
from medtask.server.database.base import Base
from medtask.server.database.connect import Database, create_sqlite_file
from medtask.server.settings import ServerSettings

# Every module with tables is imported here, so that the metadata of `Base` is complete.
TABLE_MODULES = (access_tables,)


def open_database(settings: ServerSettings) -> Database:
    """Create the data folder and the database if they do not exist, and connect.

    Raises:
        UsageError: The database URL is not valid.
    """
    settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_sqlite_file(settings.sqlalchemy_url)
    database = Database(settings.sqlalchemy_url)
    Base.metadata.create_all(database.engine)
    return database
