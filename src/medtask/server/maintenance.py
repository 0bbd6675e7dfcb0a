"""Work on the data of a server that is not a request: verification of the audit log."""

from __future__ import annotations

from contextlib import closing

from medtask.server.access.audit_log import AuditLog
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings


def verify_audit_log(settings: ServerSettings) -> tuple[int, list[str]]:
    """Verify the audit log; returns the number of entries, and each place where it is broken."""
    with closing(open_database(settings)) as database, database.read() as session:
        log = AuditLog(settings.data_folder)
        return log.count_entries(session), list(log.find_faults(session))
