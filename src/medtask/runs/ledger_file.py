"""The ledger's SQLite file: its tables, the search for damage, and the recovery of intact rows."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from medtask.atomic_files import find_free_path, replace_file
from medtask.display import format_count
from medtask.errors import StorageError
from medtask.runs.ledger_rows import is_intact
from medtask.runs.sqlite_pages import read_page_records

FORMAT = 2
_COLUMNS = 16
INSERT = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# The columns of `LedgerRow`. SQLite keeps the statement as it is written, and it is compared.
ANSWER_COLUMNS = """
        row INTEGER PRIMARY KEY, id TEXT NOT NULL, prompt_key BLOB, status TEXT NOT NULL,
        value TEXT, confidence REAL,
        probabilities BLOB, off_set REAL, slack REAL NOT NULL, reason TEXT,
        pass TEXT NOT NULL, ms REAL NOT NULL,
        tokens_read INTEGER NOT NULL, tokens_reused INTEGER NOT NULL, written TEXT,
        crc INTEGER NOT NULL"""
_SCHEMA = (
    f"CREATE TABLE answers ({ANSWER_COLUMNS})",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE INDEX answers_by_prompt ON answers (prompt_key) WHERE prompt_key IS NOT NULL",
)
_LABELS, _LABELS_CRC, _FORMAT_NAME = "labels", "labels_crc", "format"
_ACCESS_ERRORS = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


@dataclass(frozen=True, slots=True)
class LedgerRecovery:
    """The recovery of a damaged ledger.

    Attributes:
        problem: The first damage that was found.
        kept: Number of answers that were read and passed their checksum.
        lost: Number of answers that the file mentions and that could not be read. Answers on
            missing pages are counted if the index still mentions them.
        saved_as: The copy of the damaged file.
    """

    problem: str
    kept: int
    lost: int
    saved_as: Path


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The result of `verify_ledger`; ``problem`` is None for an intact file."""

    path: Path
    problem: str | None
    intact: int
    damaged: int


@dataclass(frozen=True, slots=True)
class LedgerLoss:
    """A loss of answers, as a note for the user and as facts for the manifest."""

    note: str
    facts: Mapping[str, Any]


def describe_loss(
    path: Path, recovery: LedgerRecovery | None, kept: int, expected: int
) -> LedgerLoss | None:
    """Describe the answers of earlier sessions that are lost; None without any damage.

    Args:
        path: The ledger.
        recovery: Its recovery, if it was damaged.
        kept: Number of its answers.
        expected: Number of answers that the manifest of the session before states.
    """
    lost = max(recovery.lost if recovery else 0, expected - kept)
    if recovery is None and lost <= 0:
        return None
    kept_text = f"{format_count(kept, 'answer')} kept, {lost:,} lost; lost answers are asked again"
    saved_as = recovery.saved_as.name if recovery else None
    problem = f"damaged ({recovery.problem})" if recovery else "missing or incomplete"
    copy_text = f"; the damaged file is {saved_as}" if saved_as else ""
    return LedgerLoss(
        f"{path} was {problem}: {kept_text}{copy_text}",
        {"kept": kept, "lost": lost, "saved_as": saved_as},
    )


def require_regular(path: Path) -> None:
    """Raise StorageError for a pipe, whose opening would never end, and for a folder."""
    if path.exists() and not path.is_file():
        raise StorageError(
            f"{path} is not a regular file",
            fix="move it away, and run the command of the run again: all rows are asked again",
        )


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    require_regular(path)
    mode = "ro" if read_only else "rw"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30
    )
    # A flipped bit can break UTF-8. The checksum finds it, so the decoder must not fail.
    db.text_factory = methodcaller("decode", "utf-8", "replace")  # in C: half a second per million
    return db


def is_new(db: sqlite3.Connection) -> bool:
    """Whether the file is empty, as before the first transaction."""
    return bool(db.execute("PRAGMA page_count").fetchone() == (0,))


def create_tables(db: sqlite3.Connection, labels: Sequence[str]) -> None:
    """Create the tables; the caller opens the transaction."""
    for statement in (*_SCHEMA, f"PRAGMA user_version = {FORMAT}"):
        db.execute(statement)
    written = json.dumps(labels)
    facts = {_LABELS: written, _LABELS_CRC: _hash_text(written), _FORMAT_NAME: str(FORMAT)}
    db.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())


def find_damage(
    path: Path, db: sqlite3.Connection, labels: Sequence[str] | None = None
) -> str | None:
    """The first damage of a ledger; None if it is intact or empty.

    Args:
        path: The file.
        db: A connection to it.
        labels: The labels that the ledger must have; None to accept any.

    Raises:
        StorageError: The file has another format, or intact labels that are not ``labels``.
        sqlite3.Error: The file cannot be accessed.
    """
    try:
        if is_new(db):
            return None
        return (
            _check_header(path, db)
            or _check_labels(path, db, labels)
            or _check_pages(db)
            or _check_rows(db)
        )
    except UnicodeDecodeError:  # a damaged name in SQLite's message
        return "its table definitions are damaged"
    except sqlite3.Error as error:
        if is_access_error(error):
            raise
        return str(error)


def is_access_error(error: sqlite3.Error) -> bool:
    """Whether the file is inaccessible rather than damaged."""
    code = getattr(error, "sqlite_errorcode", 0)  # missing for errors of the Python module
    return (not code or code & 0xFF in _ACCESS_ERRORS) and code not in {
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
    }


def recover_ledger(path: Path, labels: Sequence[str], problem: str) -> LedgerRecovery:
    """Replace a damaged ledger by one with its intact rows; the damaged file is kept beside it.

    Raises:
        StorageError: The folder cannot be written; the damaged file is unchanged.
    """
    rows, lost = _salvage_rows(path)
    saved_as = find_copy_name(path)
    with replace_file(path) as draft:
        with closing(connect(draft)) as db:
            db.execute("PRAGMA journal_mode = OFF")  # a draft: it is complete or it is not used
            db.execute("BEGIN")
            create_tables(db, labels)
            db.executemany(INSERT, (rows[row] for row in sorted(rows)))
            db.execute("COMMIT")
        _copy_file(path, saved_as)
        # SQLite would apply the journal of the damaged file to the new one.
        for suffix in ("-journal", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return LedgerRecovery(problem, len(rows), lost, saved_as)


def verify_ledger(path: Path) -> LedgerState:
    """Check a ledger without changing it.

    Raises:
        StorageError: The file cannot be read, or has another format.
    """
    try:
        with closing(connect(path, read_only=True)) as db:
            problem = find_damage(path, db)
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} cannot be read: {error}",
            fix="wait until the run ends, or run its command again if it was interrupted",
        ) from error
    try:
        rows, lost = _salvage_rows(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", fix="give read access to the file"
        ) from error
    return LedgerState(path, problem, len(rows), lost)


def _check_header(path: Path, db: sqlite3.Connection) -> str | None:
    with path.open("rb") as file:
        header = file.read(20)
    if header[18] > 2:  # SQLite opens such a file, but never writes to it
        return "its header is damaged"
    (version,) = db.execute("PRAGMA user_version").fetchone()
    schema = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    is_ours = {" ".join(sql.split()) for (sql,) in schema} == {
        " ".join(statement.split()) for statement in _SCHEMA
    }
    if is_ours and version != FORMAT:
        stated = db.execute("SELECT value FROM meta WHERE name = ?", (_FORMAT_NAME,)).fetchone()
        if stated == (str(FORMAT),):
            return "its header is damaged"
    if version not in {0, FORMAT} and _check_pages(db) is None:
        raise StorageError(
            f"{path} has format {version}, not {FORMAT}",
            fix="use the version of medtask that wrote it",
        )
    return None if is_ours and version == FORMAT else "its table definitions are damaged"


def _check_labels(path: Path, db: sqlite3.Connection, labels: Sequence[str] | None) -> str | None:
    stored = dict(db.execute("SELECT name, value FROM meta"))
    written = stored.get(_LABELS)
    if written is None or stored.get(_LABELS_CRC, _hash_text(written)) != _hash_text(written):
        return "its list of labels is damaged"
    if labels is not None and written != json.dumps(labels):
        raise StorageError(
            f"the labels in {path} are not the task's labels",
            fix="give another folder with --out, or move the file aside",
        )
    return None


def _check_pages(db: sqlite3.Connection) -> str | None:
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    message = str(found).removeprefix("*** in database main ***")
    return None if found == "ok" else " ".join(message.split())


def _check_rows(db: sqlite3.Connection) -> str | None:
    damaged = sum(not is_intact(row) for row in db.execute("SELECT * FROM answers"))
    return f"{format_count(damaged, 'row')} with a wrong checksum" if damaged else None


def _salvage_rows(path: Path) -> tuple[dict[int, tuple[Any, ...]], int]:
    """The intact rows of a file, and the number of rows that it mentions and that are lost."""
    found: dict[int, tuple[Any, ...]] = {}
    mentioned: set[int] = set()
    ambiguous: set[int] = set()
    for record in read_page_records(path, _COLUMNS):
        row = record.values[1] if record.row is None else record.row
        if not isinstance(row, int) or row < 1:  # row numbers start at 1: this record is damaged
            continue
        mentioned.add(row)
        stored = (row, *record.values[1:])
        if record.row is None or not is_intact(stored):
            continue
        # Two answers for one row come from pages of different times: neither can be trusted.
        if found.setdefault(row, stored) != stored:
            ambiguous.add(row)
    kept = {row: stored for row, stored in found.items() if row not in ambiguous}
    return kept, len(mentioned - kept.keys())


def find_copy_name(path: Path) -> Path:
    """An unused name for the copy of a damaged file."""
    return find_free_path(path.with_stem(f"{path.stem}.damaged"))


def _copy_file(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copy2(path, copy)


def _hash_text(text: str) -> str:
    return str(zlib.crc32(text.encode("utf-8", "backslashreplace")))
