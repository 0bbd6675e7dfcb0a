"""Purging: an object of the server is removed with every trace of its texts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.errors import InputError
from medtask.server.access.audit_log import AuditEvent, AuditLog
from medtask.server.database.base import Base
from medtask.server.database.connect import Database
from medtask.server.objects import OBJECT_KINDS, delete_object, find_working_job
from medtask.server.review.tables import ReviewQueue
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask

PURGEABLE: Mapping[str, type[Base]] = {
    OBJECT_KINDS[table].name: table for table in (StoredDataset, StoredTask, StoredModel, StoredRun)
}


def purge(settings: ServerSettings, name: str, number: int) -> list[str]:
    """Remove an object with its files, its reviews, and what the database's file keeps of it.

    Returns:
        What was removed, for people.

    Raises:
        InputError: There is no such object, a job works on it, or runs have copies of its texts.
    """
    table = PURGEABLE[name]
    with closing(open_database(settings)) as database:
        with database.write() as session:
            files = DataFolder(settings.data_folder)
            removed = _delete_rows(session, files, table, number)
            event = AuditEvent("", "", f"{name}.purge", str(number))
            AuditLog(settings.data_folder).record(session, event)
        removed += _delete_copies(database)
        _clean_database(database)
    return removed


def _delete_rows(session: Session, files: DataFolder, table: type[Base], number: int) -> list[str]:
    """Delete an object and its reviews with their files; returns what was removed."""
    kind, row = OBJECT_KINDS[table], session.get(table, number)
    name, column = f"{kind.noun} {number}", f"{kind.name}_id"
    if row is None:
        raise InputError(f"there is no {name}", fix="see the ids on the server's pages")
    _refuse_running_job(session, row, name)
    removed = [name]
    if hasattr(StoredRun, column):
        runs = session.scalars(select(StoredRun.id).filter_by(**{column: number})).all()
        if runs:
            listed = ", ".join(f"medtask purge run {run}" for run in runs)
            raise InputError(f"runs have copies of {name}", fix=f"first: {listed}")
    if hasattr(ReviewQueue, column):
        for queue in session.scalars(select(ReviewQueue).filter_by(**{column: number})).all():
            _refuse_running_job(session, queue, f"review {queue.id}")
            removed.append(f"review queue {queue.id}")
            delete_object(session, files, queue)
    delete_object(session, files, row)
    return removed


def _refuse_running_job(session: Session, row: Base, name: str) -> None:
    if job := find_working_job(session, row):
        raise InputError(f"job {job.id} works on {name}", fix="cancel the job first")


def _delete_copies(database: Database) -> list[str]:
    """Delete the copies of a SQLite file that were made before migrations."""
    path = database.engine.url.database
    if not database.is_sqlite or not path:
        return []
    copies = sorted(Path(path).parent.glob(f"{Path(path).name}.*.copy"))
    for copy in copies:
        copy.unlink()
    return [f"the database's copy {copy.name}" for copy in copies]


def _clean_database(database: Database) -> None:
    """Rewrite the database without the pages and rows that were deleted."""
    with closing(database.engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        if database.is_sqlite:
            driver.execute("VACUUM")
            return
        driver.autocommit = True
        driver.execute("VACUUM FULL")
        driver.autocommit = False
