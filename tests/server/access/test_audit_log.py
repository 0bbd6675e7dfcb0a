"""The audit log: every change to it is found, and it contains no text."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from medtask.server.access.audit_log import AuditEvent, AuditLog
from medtask.server.access.roles import Role
from medtask.server.access.tables import AuditEntry
from support.server import ServerUnderTest


class Undone(Exception):
    """Rolls a transaction back."""


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(AuditEntry)) or 0


def swap(session: Session) -> None:
    """Exchange the contents of two entries; each keeps the hash of its own content."""
    for number, other in ((500, -1), (501, 500), (-1, 501)):
        session.execute(update(AuditEntry).where(AuditEntry.number == number).values(number=other))


TAMPERINGS: dict[str, Callable[[Session], object]] = {
    "an action is changed": lambda session: session.execute(
        update(AuditEntry).where(AuditEntry.number == 77).values(action="dataset.read")
    ),
    "facts are changed": lambda session: session.execute(
        update(AuditEntry).where(AuditEntry.number == 3).values(facts={"rows": 8})
    ),
    "an entry is deleted": lambda session: session.execute(
        delete(AuditEntry).where(AuditEntry.number == 432)
    ),
    "the last entry is deleted": lambda session: session.execute(
        delete(AuditEntry).where(AuditEntry.number == count(session))
    ),
    "the first entry is deleted": lambda session: session.execute(
        delete(AuditEntry).where(AuditEntry.number == 1)
    ),
    "two entries are exchanged": swap,
    "all are deleted": lambda session: session.execute(delete(AuditEntry)),
}


def fill(server: ServerUnderTest, entries: int) -> AuditLog:
    log: AuditLog = server.app.state.audit_log
    with server.database.write() as session:
        session.execute(delete(AuditEntry))
        for number in range(entries):
            event = AuditEvent("user", "admin", "dataset.delete", str(number), facts={"rows": 7})
            log.record(session, event)
    return log


@pytest.mark.parametrize("entries", [1_000, pytest.param(10_000, marks=pytest.mark.scale)])
def test_every_tampering_with_one_entry_is_found(server: ServerUnderTest, entries: int) -> None:
    log = fill(server, entries)
    with server.database.read() as session:
        assert list(log.find_faults(session)) == []
    for name, tamper in TAMPERINGS.items():
        with suppress(Undone), server.database.write() as session:
            tamper(session)
            assert list(log.find_faults(session)), name
            raise Undone
    with server.database.read() as session:
        assert list(log.find_faults(session)) == []


def test_an_entry_that_is_written_without_the_key_is_found(server: ServerUnderTest) -> None:
    server.connect(Role.ADMIN).post("/api/accounts", json={"name": "A", "role": "viewer"})
    (server.settings.data_folder / "audit.key").write_bytes(b"another key")
    with server.database.read() as session:
        assert list(AuditLog(server.settings.data_folder).find_faults(session))


def test_an_action_and_its_entry_are_one_transaction(server: ServerUnderTest) -> None:
    admin = server.connect(Role.ADMIN)

    def count_entries() -> int:
        with server.database.read() as session:
            return count(session)

    before = count_entries()
    for new in ({"name": "A", "role": "viewer"}, {"name": "a", "role": "viewer"}):
        admin.post("/api/accounts", json=new)
    assert count_entries() == before + 1


def test_concurrent_actions_leave_one_chain(server: ServerUnderTest) -> None:
    log: AuditLog = server.app.state.audit_log

    def record(number: int) -> None:
        with server.database.write() as session:
            log.record(session, AuditEvent("user", "viewer", "run.create", str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(80)))
    with server.database.read() as session:
        assert list(log.find_faults(session)) == []
        assert log.count_entries(session) == 80


def test_the_log_contains_ids_and_no_names(server: ServerUnderTest) -> None:
    admin = server.connect(Role.ADMIN)
    admin.post("/api/accounts", json={"name": "Frau Canary", "role": "viewer"})
    admin.post("/api/keys", json={"name": "canary key", "scopes": ["read"]})
    server.connect().post("/sign-in", data={"name": "canary password", "password": "canary"})
    with server.database.read() as session:
        rows = [str(row) for row in session.execute(text("SELECT * FROM audit_entries"))]
    assert [row for row in rows if "canary" in row.lower()] == []
    for action in ("account.create", "key.create", "account.sign_in"):
        assert sum(action in row for row in rows) == 1, action


def test_the_use_of_a_key_is_recorded_once_an_hour(server: ServerUnderTest) -> None:
    program = server.connect_with_key(Role.VIEWER)
    for _ in range(3):
        assert program.get("/api/me").status_code == 200
    assert program.get("/api/keys").json()[0]["last_used_at"]
    with server.database.read() as session:
        uses = session.scalars(select(AuditEntry).where(AuditEntry.action == "key.use")).all()
        assert len(uses) == 1
        assert uses[0].actor == server.get_user(Role.VIEWER).id
