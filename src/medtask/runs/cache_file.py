"""The file of answers that runs share: hashes and probabilities in one SQLite file.

The file is a convenience, so that no problem with it ends a run: it is noted, and the model is
asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from medtask.atomic_files import open_private
from medtask.engines.base import Engine
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, Status, Value, list_names
from medtask.runs.ledger_file import ANSWER_COLUMNS, find_copy_name, is_access_error
from medtask.runs.ledger_rows import LedgerRow, LedgerRowCodec, is_intact
from medtask.runs.manifest import identify_model
from medtask.tasks.task import Task

FORMAT = 1
_APPLICATION_ID = 0x6D656463  # "medc": other SQLite files are not touched
MAX_CACHE_BYTES = 1_000_000_000
BUSY_SECONDS = 10.0  # how long a process waits for another one that writes
FLUSH_ANSWERS = 256
_CACHED_STATUSES = frozenset({Status.OK, Status.REVIEW, Status.ABSTAINED})
_MARKS = ", ".join("?" * (len(LedgerRow._fields) + 1))
_INSERT = f"INSERT OR IGNORE INTO answers VALUES ({_MARKS})"  # noqa: S608 - only marks


class CacheFile:
    """The answers of many runs to the questions of one task by one model.

    An answer is found by a hash of its prompt, of the task and of everything that identifies the
    model. It is stored as a row of a ledger, without the record's id and with the numbers of labels
    instead of their names. Several processes may use a file at once.

    Args:
        path: The file; it is created, readable by its owner only. A damaged file is set aside.
        task: The task.
        engine: The model.
        pass_engines: The models of further passes.

    Attributes:
        path: The file.
        notes: What the user should know about the file.
    """

    def __init__(
        self, path: Path, task: Task, engine: Engine, pass_engines: Mapping[str, Engine]
    ) -> None:
        self.path, self.notes = path, list[str]()
        self._scope = _hash_scope(task, engine, pass_engines)
        self._numbers = {name: str(number) for number, name in enumerate(task.outcomes)}
        self._names = {number: name for name, number in self._numbers.items()}
        self._codec = LedgerRowCodec(task.outcomes)
        self._pending: list[tuple[object, ...]] = []
        self._db: sqlite3.Connection | None = None
        try:
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def find(self, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """The answers to prompts, by the hashes of the prompts; without those that are missing."""
        found: dict[bytes, Answer] = {}
        if self._db is None:
            return found
        try:
            for key in keys:
                hashed = self._hash_key(key)
                stored = self._db.execute(
                    "SELECT * FROM answers WHERE row = ?", (_number_row(hashed),)
                ).fetchone()
                if stored and stored[2] == hashed and is_intact(stored[:-1]):
                    found[key] = self._restore(self._codec.decode(stored[:-1]))
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def add(self, row_answer: RowAnswer) -> None:
        """Keep an answer, if it consists of probabilities."""
        answer = row_answer.answer
        if self._db is None or row_answer.key is None or not self._is_cacheable(answer):
            return
        hashed = self._hash_key(row_answer.key)
        bare = replace(
            answer,
            record_id="",
            value=self._rename(answer.value, self._numbers),
            steps=tuple(
                replace(step, value=self._rename(step.value, self._numbers))
                for step in answer.steps
            ),
            ms=0.0,
            tokens_read=0,
            tokens_reused=0,
        )
        row = self._codec.encode(RowAnswer(_number_row(hashed), hashed, bare))
        self._pending.append((*row, int(time.time() // 86400)))
        if len(self._pending) >= FLUSH_ANSWERS:
            self.flush()

    def flush(self) -> None:
        """Write pending answers."""
        if self._db is None or not self._pending:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_INSERT, self._pending)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)
        self._pending.clear()

    def close(self) -> None:
        """Write pending answers, remove the oldest ones if the file is too large, and close it."""
        self.flush()
        if self._db is None:
            return
        try:
            self._remove_oldest(self._db)
            self._db.close()
        except sqlite3.Error as error:
            self._give_up(error)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prepare_file(self.path)
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            if is_access_error(error):
                raise
            self._set_aside(error)
        _prepare_file(self.path)
        return _connect(self.path)

    def _set_aside(self, error: sqlite3.Error) -> None:
        copy = find_copy_name(self.path)
        self.path.replace(copy)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.notes.append(
            f"the answer cache {self.path} was damaged ({error}): it is {copy.name} now"
        )

    def _give_up(self, error: Exception) -> None:
        """Use the file no more, with a note."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if isinstance(error, sqlite3.Error) and not is_access_error(error):
            with suppress(OSError):
                self._set_aside(error)
            return
        problem = (isinstance(error, OSError) and error.strerror) or str(error)
        self.notes.append(f"the answer cache {self.path} is not used: {problem}")

    def _hash_key(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._scope, digest_size=16).digest()

    def _is_cacheable(self, answer: Answer) -> bool:
        values = [answer.value, *(step.value for step in answer.steps)]
        has_text = answer.text is not None or answer.thoughts is not None or answer.quotes
        return (
            answer.status in _CACHED_STATUSES
            and bool(answer.probabilities)
            and not has_text
            and all(self._numbers.keys() >= set(list_names(value)) for value in values)
        )

    def _restore(self, answer: Answer) -> Answer:
        steps = tuple(
            replace(step, value=self._rename(step.value, self._names)) for step in answer.steps
        )
        return replace(answer, value=self._rename(answer.value, self._names), steps=steps)

    def _rename(self, value: Value | None, names: Mapping[str, str]) -> Value | None:
        if isinstance(value, str):
            return names[value]
        return tuple(names[name] for name in value) if isinstance(value, tuple) else value

    def _remove_oldest(self, db: sqlite3.Connection) -> None:
        pages, free, page_bytes = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        excess = 1 - MAX_CACHE_BYTES / max(1, (pages - free) * page_bytes)
        if excess <= 0:
            return
        (rows,) = db.execute("SELECT count(*) FROM answers").fetchone()
        # A fifth more than needed, so that this does not happen after every run.
        db.execute(
            "DELETE FROM answers WHERE row IN (SELECT row FROM answers ORDER BY day LIMIT ?)",
            (int(rows * min(1.0, excess + 0.2)),),
        )


def _hash_scope(task: Task, engine: Engine, pass_engines: Mapping[str, Engine]) -> bytes:
    """A hash of everything beside the prompt that an answer depends on."""
    engines = {"": engine, **pass_engines}
    facts = [
        FORMAT,
        version("medtask"),
        task.fingerprint,
        task.outcomes,
        {name: one.info.name for name, one in engines.items()},
        identify_model(engine, pass_engines),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _number_row(hashed: bytes) -> int:
    """The row of a hash: a positive 63-bit number."""
    return int.from_bytes(hashed[:8], "big") >> 1


def _prepare_file(path: Path) -> None:
    """Create the file, readable by its owner only.

    Raises:
        OSError: It is a link, no regular file, or of another user, who could plant answers.
    """
    handle = open_private(path)
    try:
        facts = os.fstat(handle)
        if hasattr(os, "getuid") and facts.st_uid != os.getuid():
            raise OSError(0, "it belongs to another user")
        if os.name == "posix":
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to the file, with its table.

    Raises:
        sqlite3.Error: The file cannot be accessed, or is damaged.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        if not _is_ours(db):
            raise OSError(0, "it is another SQLite file, or one of another version")
        # Readers do not wait for a writer, and a commit does not wait for the disk. Another process
        # that does the same at this moment makes the first statement fail.
        with suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        if _is_empty(db):
            db.execute(f"CREATE TABLE answers ({ANSWER_COLUMNS}, day INTEGER NOT NULL)")
            db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute("COMMIT")
        db.execute("SELECT * FROM answers LIMIT 1")
    except BaseException:
        db.close()
        raise
    return db


def _is_ours(db: sqlite3.Connection) -> bool:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (found_format,) = db.execute("PRAGMA user_version").fetchone()
    return _is_empty(db) or (application, found_format) == (_APPLICATION_ID, FORMAT)


def _is_empty(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))
