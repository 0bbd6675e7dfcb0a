"""The audit log: entries that cannot be changed, removed or reordered without being found.

Each entry has the HMAC of its content and of the entry before it, under a key that is in the data
folder and not in the database. The number and hash of the last entry are also in a file, so that
entries missing at the end are found. An entry contains ids and numbers, never the text of a record.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request
from sqlalchemy import event as database_event
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from medtask.server.access.requests import get_address, get_user
from medtask.server.access.roles import User
from medtask.server.access.tables import AuditEntry
from medtask.server.database.base import get_utc_now

KEY_FILE = "audit.key"
HEAD_FILE = "audit.head"
_HEAD = "audit_head"  # in the facts of a session: the entry that it adds last
_LOCK_NUMBER = 7_246_001  # of PostgreSQL's advisory lock: one writer at a time


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What happened.

    Attributes:
        actor: Id of the user, or "" for the server itself.
        action: A verb and its object, such as "dataset.delete".
        object_id: Id of the object.
        facts: Further ids and numbers; no text of records, no file names.
    """

    actor: str
    role: str
    action: str
    object_id: str = ""
    outcome: str = "ok"
    address: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class AuditLog:
    """Writes and verifies the entries in the database.

    Args:
        data_folder: Folder of the key; the key is created if there is none.
    """

    def __init__(self, data_folder: Path) -> None:
        self._head_file = data_folder / HEAD_FILE
        self._key = _read_key(data_folder / KEY_FILE)

    def record(self, session: Session, event: AuditEvent) -> None:
        """Add an entry in the transaction of the action itself: both happen, or neither."""
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
        last = session.scalars(
            select(AuditEntry).order_by(AuditEntry.number.desc()).limit(1)
        ).first()
        entry = AuditEntry(
            number=1 if last is None else last.number + 1,
            time=get_utc_now().isoformat(timespec="microseconds"),
            actor=event.actor,
            role=event.role,
            action=event.action,
            object_id=event.object_id,
            outcome=event.outcome,
            address=event.address,
            facts=dict(event.facts),
            previous_hash="" if last is None else last.hash,
        )
        entry.hash = self._compute_hash(entry)
        session.add(entry)
        session.flush()
        if _HEAD not in session.info:
            # Not before: an entry that is not committed would be missed later.
            database_event.listen(session, "after_commit", self._write_head)
        session.info[_HEAD] = json.dumps({"number": entry.number, "hash": entry.hash})

    def count_entries(self, session: Session) -> int:
        """The number of entries."""
        return session.scalar(select(func.count()).select_from(AuditEntry)) or 0

    def find_faults(self, session: Session) -> Iterator[str]:
        """Describe each place where the chain is broken."""
        number, previous = 0, ""
        head_number, head_hash = self._read_head()
        for entry in session.scalars(
            select(AuditEntry).order_by(AuditEntry.number).execution_options(yield_per=1000)
        ):
            number += 1
            if entry.number != number:
                yield f"entry {number} is missing"
                number = entry.number
            elif entry.previous_hash != previous:
                yield f"entry {number} does not follow the entry before it"
            if not hmac.compare_digest(entry.hash, self._compute_hash(entry)):
                yield f"entry {number} was changed"
            if number == head_number and entry.hash != head_hash:
                yield f"entry {number} is not the one that was written"
            previous = entry.hash
        if number < head_number:
            yield f"entries {number + 1} to {head_number} are missing at the end"

    def _write_head(self, session: Session) -> None:
        _write_privately(self._head_file, session.info[_HEAD].encode())

    def _read_head(self) -> tuple[int, str]:
        """Number and hash of an entry at or shortly before the last one."""
        try:
            head = json.loads(self._head_file.read_text("utf-8"))
        except FileNotFoundError:
            return 0, ""
        return head["number"], head["hash"]

    def _compute_hash(self, entry: AuditEntry) -> str:
        content = [
            entry.number,
            entry.time,
            entry.actor,
            entry.role,
            entry.action,
            entry.object_id,
            entry.outcome,
            entry.address,
            entry.facts,
            entry.previous_hash,
        ]
        encoded = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        return hmac.new(self._key, encoded, hashlib.sha256).hexdigest()


def record_action(
    request: Request,
    session: Session,
    action: str,
    object_id: str = "",
    *,
    user: User | None = None,
    outcome: str = "ok",
) -> None:
    """Record an action of a request in the transaction of the action.

    Args:
        request: The request; its user is the actor.
        session: The transaction.
        action: The object and the verb, such as "dataset.delete".
        object_id: Id of the object.
        user: The actor, if the request has none yet: somebody who signs in.
        outcome: "ok", or a word for what went wrong.
    """
    actor = user or get_user(request)
    event = AuditEvent(
        actor="" if actor is None else actor.id,
        role="" if actor is None else actor.role.label,
        action=action,
        object_id=object_id,
        outcome=outcome,
        address=get_address(request),
        facts={} if actor is None or actor.key_id is None else {"key": actor.key_id},
    )
    log: AuditLog = request.app.state.audit_log
    log.record(session, event)


def _read_key(path: Path) -> bytes:
    """Read the key, or create it; of several processes one creates it."""
    if not path.exists():
        draft = _write_draft(path, secrets.token_bytes(32))
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()


def _write_privately(path: Path, content: bytes) -> None:
    """Replace a file; several threads and processes may do so, and the last one wins."""
    _write_draft(path, content).replace(path)


def _write_draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return draft
