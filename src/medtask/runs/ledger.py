"""The ledger of a run: answers in one SQLite file that survives kills and disk faults."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from medtask.errors import StorageError
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, PassStep, Quote, Status, Value

FLUSH_ROWS = 64
FLUSH_SECONDS = 1.0
FORMAT = 2

_TABLES = (
    """CREATE TABLE answers (
        row INTEGER PRIMARY KEY, id TEXT NOT NULL, prompt_key BLOB, status TEXT NOT NULL,
        value TEXT, confidence REAL,
        probabilities BLOB, off_set REAL, slack REAL NOT NULL, reason TEXT,
        pass TEXT NOT NULL, ms REAL NOT NULL,
        tokens_read INTEGER NOT NULL, tokens_reused INTEGER NOT NULL, written TEXT,
        crc INTEGER NOT NULL)""",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_INDEX = "CREATE INDEX answers_by_prompt ON answers (prompt_key) WHERE prompt_key IS NOT NULL"
_INSERT = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Ledger:
    """The answers of one run, by row, with one writing process and any number of readers.

    Answers are committed every ``FLUSH_ROWS`` rows or ``FLUSH_SECONDS`` seconds, so a kill loses at
    most these and the engine's current batch. Each row has a CRC of its content. Rows with a wrong
    CRC are deleted when the ledger is opened (``damaged`` counts them), and are asked again.

    Probabilities are stored in the order of ``labels``, the names of all outcomes; NaN for outcomes
    that a row does not have. Values without a column, such as thoughts, are JSON under ``written``.

    Raises:
        StorageError: The file cannot be read or written, or was created with other labels.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.path = path
        self.labels = tuple(labels)
        self._probabilities = struct.Struct(f"<{len(self.labels)}d")
        self._pending: list[tuple[Any, ...]] = []
        self._flushed = time.monotonic()
        with self._raise_storage_errors():
            # SQLite creates its journal with the mode of the database: both are private.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            try:
                self.damaged = self._open_tables()
            except BaseException:
                self._db.close()
                raise

    def add(self, row_answer: RowAnswer) -> bool:
        """Add an answer; returns whether it and all earlier ones are committed."""
        self._pending.append(self._encode(row_answer))
        if len(self._pending) < FLUSH_ROWS and time.monotonic() - self._flushed < FLUSH_SECONDS:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Commit pending answers. After an error they stay pending and can be flushed again."""
        with self._raise_storage_errors():
            if self._pending:
                with self._transaction():
                    self._db.executemany(_INSERT, self._pending)
        self._pending.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file; pending answers are discarded."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    def list_answered_rows(self, first: int, last: int) -> set[int]:
        """The rows from first to last that have an answer."""
        self.flush()
        with self._raise_storage_errors():
            return {
                row
                for (row,) in self._db.execute(
                    "SELECT row FROM answers WHERE row BETWEEN ? AND ?", (first, last)
                )
            }

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """For each key, the answer of the earliest row before ``row`` that has this key."""
        self.flush()
        query = "SELECT * FROM answers WHERE prompt_key = ? AND row < ? ORDER BY row LIMIT 1"
        found = {}
        with self._raise_storage_errors():
            for key in keys:
                stored = self._db.execute(query, (key, row)).fetchone()
                # SQLite trusts its index; with a damaged one, a row could get the answer to another
                # question.
                if stored and stored[2] == key and _is_intact(stored):
                    found[key] = self._decode(stored)
        return found

    def count_statuses(self, last: int) -> dict[Status, int]:
        """The number of answered rows up to ``last``, by status."""
        self.flush()
        with self._raise_storage_errors():
            counted = self._db.execute(
                "SELECT status, count(*) FROM answers WHERE row <= ? GROUP BY status", (last,)
            ).fetchall()
        found = {Status(name): count for name, count in counted}
        return {status: found[status] for status in Status if status in found}

    def count_without_value(self, last: int, statuses: Collection[Status]) -> int:
        """The number of rows up to ``last`` with one of the statuses and no value."""
        self.flush()
        marks = ", ".join("?" * len(statuses))
        query = (
            f"SELECT count(*) FROM answers WHERE row <= ? AND value IS NULL AND status IN ({marks})"  # noqa: S608 - only marks
        )
        with self._raise_storage_errors():
            (count,) = self._db.execute(query, (last, *map(str, statuses))).fetchone()
        return int(count)

    def read_answers(self, last: int) -> Iterator[RowAnswer]:
        """Yield the answers of the rows up to ``last``, in row order."""
        self.flush()
        with self._raise_storage_errors():
            for stored in self._db.execute(
                "SELECT * FROM answers WHERE row <= ? ORDER BY row", (last,)
            ):
                yield RowAnswer(stored[0], stored[2], self._decode(stored))

    def _open_tables(self) -> int:
        """Create or check the tables; returns the number of deleted damaged rows."""
        # A flipped bit can break UTF-8. The CRC check reports it, so the decoder must not fail.
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._db.execute("PRAGMA synchronous = FULL")
        # PERSIST empties the rollback journal instead of deleting it: as safe, in a third of the
        # time.
        self._db.execute("PRAGMA journal_mode = PERSIST")
        labels = json.dumps(self.labels)
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if not found:
            with self._transaction():
                for statement in (*_TABLES, _INDEX, f"PRAGMA user_version = {FORMAT}"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO meta VALUES ('labels', ?)", (labels,))
        elif found != FORMAT:
            raise StorageError(
                f"{self.path} has format {found}, not {FORMAT}",
                fix="use the version of medtask that wrote it",
            )
        elif self._db.execute("SELECT value FROM meta WHERE name = 'labels'").fetchone() != (
            labels,
        ):
            raise StorageError(
                f"{self.path} is damaged: its labels are not the task's", fix=_DAMAGED_FIX
            )
        return self._drop_damaged()

    def _drop_damaged(self) -> int:
        stored = self._db.execute("SELECT * FROM answers ORDER BY row")
        damaged = [(row[0],) for row in stored if not _is_intact(row)]
        if damaged:
            with self._transaction():
                # The index may not match a damaged row.
                self._db.execute("DROP INDEX answers_by_prompt")
                self._db.executemany("DELETE FROM answers WHERE row = ?", damaged)
                self._db.execute(_INDEX)
        return len(damaged)

    def _encode(self, row_answer: RowAnswer) -> tuple[Any, ...]:
        answer = row_answer.answer
        probabilities = answer.probabilities
        stored = (
            row_answer.row,
            # A table can contain lone surrogates, which SQLite rejects.
            answer.record_id.encode("utf-8", "backslashreplace").decode(),
            row_answer.key,
            str(answer.status),
            None if answer.value is None else json.dumps(answer.value),
            _normalise_real(answer.confidence),
            self._probabilities.pack(*(probabilities.get(name, math.nan) for name in self.labels))
            if probabilities
            else None,
            _normalise_real(answer.off_set),
            _normalise_real(answer.slack),
            answer.reason,
            answer.pass_name,
            _normalise_real(answer.ms),
            answer.tokens_read,
            answer.tokens_reused,
            _encode_details(answer),
        )
        return (*stored, _compute_checksum(stored))

    def _decode(self, stored: tuple[Any, ...]) -> Answer:
        (
            _,
            record_id,
            _,
            status,
            value,
            confidence,
            probabilities,
            off_set,
            slack,
            reason,
            pass_name,
            ms,
            read,
            reused,
            details,
            _,
        ) = stored
        return Answer(
            record_id,
            Status(status),
            value=None if value is None else _restore_value(json.loads(value)),
            confidence=confidence,
            probabilities=self._unpack_probabilities(probabilities) if probabilities else None,
            off_set=off_set,
            slack=slack,
            reason=reason,
            pass_name=pass_name,
            ms=ms,
            tokens_read=read,
            tokens_reused=reused,
            **_decode_details(details),
        )

    def _unpack_probabilities(self, probabilities: bytes) -> dict[str, float]:
        found = zip(self.labels, self._probabilities.unpack(probabilities), strict=True)
        return {name: share for name, share in found if not math.isnan(share)}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _raise_storage_errors(self) -> Iterator[None]:
        """Convert SQLite errors into a StorageError with a remedy."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be opened: {error.strerror}", fix=_ACCESS_FIX
            ) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                raise StorageError(f"{self.path} is damaged: {error}", fix=_DAMAGED_FIX) from error
            raise StorageError(
                f"{self.path} cannot be read or written: {error}", fix=_ACCESS_FIX
            ) from error


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NUMBER_FORMAT = struct.Struct("<3q4d")
_DAMAGED_FIX = (
    "move the file aside and run the same command again: its rows are asked again, "
    "nothing else is lost"
)
_ACCESS_FIX = (
    "free space or give access, then run the same command again: what is in the ledger is "
    "not asked again"
)


def _normalise_real(number: float | None) -> float | None:
    """The number as SQLite returns it: a plain float, with 0.0 for -0.0."""
    return None if number is None else float(number) + 0.0


def _restore_value(value: Any) -> Value:
    """A value as it was before JSON encoding."""
    return tuple(value) if isinstance(value, list) else cast("Value", value)


def _encode_details(answer: Answer) -> str | None:
    """The details that few answers have, as JSON; None without any."""
    steps = [[step.pass_name, step.status, step.value, step.confidence] for step in answer.steps]
    quotes = {
        name: [quote.text, quote.start, quote.end] for name, quote in (answer.quotes or {}).items()
    }
    details = {
        "text": answer.text,
        "thoughts": answer.thoughts,
        "quotes": quotes or None,
        "steps": steps or None,
    }
    kept = {name: value for name, value in details.items() if value is not None}
    return json.dumps(kept) if kept else None


def _decode_details(written: str | None) -> dict[str, Any]:
    details = json.loads(written) if written else {}
    if "quotes" in details:
        details["quotes"] = {name: Quote(*quote) for name, quote in details["quotes"].items()}
    steps = details.get("steps", ())
    details["steps"] = tuple(
        PassStep(name, Status(status), _restore_value(value), confidence)
        for name, status, value, confidence in steps
    )
    return details


def _compute_checksum(stored: tuple[Any, ...]) -> int:
    (
        row,
        record_id,
        key,
        status,
        value,
        confidence,
        probabilities,
        off_set,
        slack,
        reason,
        pass_name,
        ms,
        read,
        reused,
        details,
    ) = stored
    reals = (math.nan if number is None else number for number in (confidence, off_set, slack, ms))
    texts = repr((record_id, status, value, reason, pass_name, details)).encode()
    return zlib.crc32(
        _NUMBER_FORMAT.pack(row, read, reused, *reals),
        zlib.crc32(texts + (probabilities or b""), zlib.crc32(key or b"")),
    )


def _is_intact(stored: tuple[Any, ...]) -> bool:
    try:
        return bool(_compute_checksum(stored[:-1]) == stored[-1])
    except (struct.error, TypeError):  # a flipped bit can turn a number into text
        return False
