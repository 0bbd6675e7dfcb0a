"""The durable record of a run: one SQLite file that survives kill -9, a full disk and flipped
bits.
"""

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
    """The answers of one run, by row. One process writes it; others may read it meanwhile.

    Answers are committed ``FLUSH_ROWS`` at a time, or sooner when ``FLUSH_SECONDS`` have passed, so
    a kill loses no more than these and the batch that the engine is at. Each row carries a CRC of
    all that it holds; a row whose CRC is wrong is forgotten when the ledger is opened (``damaged``
    counts them), so that it is asked again.

    ``labels``: the names of all outcomes that can have a probability, in the order in which
    probabilities are kept; one that a row does not have (an option, say) is kept as NaN. What has
    no column of its own, thoughts for one, is JSON under ``written``. StorageError where the file
    cannot be read or written, or where it holds other labels.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.path = path
        self.labels = tuple(labels)
        self._probabilities = struct.Struct(f"<{len(self.labels)}d")
        self._pending: list[tuple[Any, ...]] = []
        self._flushed = time.monotonic()
        with self._raise_storage_errors():
            # SQLite gives its journal the mode of the database, so this keeps both from other
            # users.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            try:
                self.damaged = self._open_tables()
            except BaseException:
                self._db.close()
                raise

    def add(self, row_answer: RowAnswer) -> bool:
        """Take one answer; True when it, and all before it, are safe on the disk."""
        self._pending.append(self._encode(row_answer))
        if len(self._pending) < FLUSH_ROWS and time.monotonic() - self._flushed < FLUSH_SECONDS:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Commit what is pending. After an error it is still pending, and can be flushed again."""
        with self._raise_storage_errors():
            if self._pending:
                with self._transaction():
                    self._db.executemany(_INSERT, self._pending)
        self._pending.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file; what was not flushed is not kept."""
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
        """For each key the answer of the earliest row before ``row`` that was asked it."""
        self.flush()
        query = "SELECT * FROM answers WHERE prompt_key = ? AND row < ? ORDER BY row LIMIT 1"
        found = {}
        with self._raise_storage_errors():
            for key in keys:
                stored = self._db.execute(query, (key, row)).fetchone()
                # SQLite trusts its index; a damaged one must not hand a row the answer to another
                # question.
                if stored and stored[2] == key and _is_intact(stored):
                    found[key] = self._decode(stored)
        return found

    def count_statuses(self, last: int) -> dict[Status, int]:
        """How many of the rows up to ``last`` have which status; rows without an answer are not
        counted.
        """
        self.flush()
        with self._raise_storage_errors():
            counted = self._db.execute(
                "SELECT status, count(*) FROM answers WHERE row <= ? GROUP BY status", (last,)
            ).fetchall()
        found = {Status(name): count for name, count in counted}
        return {status: found[status] for status in Status if status in found}

    def count_without_value(self, last: int, statuses: Collection[Status]) -> int:
        """How many of the rows up to ``last`` have one of the statuses, and no value in spite of
        it.
        """
        self.flush()
        marks = ", ".join("?" * len(statuses))
        query = (
            f"SELECT count(*) FROM answers WHERE row <= ? AND value IS NULL AND status IN ({marks})"  # noqa: S608 - only marks
        )
        with self._raise_storage_errors():
            (count,) = self._db.execute(query, (last, *map(str, statuses))).fetchone()
        return int(count)

    def read_answers(self, last: int) -> Iterator[RowAnswer]:
        """The answers of the rows up to ``last``, in the order of rows, streamed."""
        self.flush()
        with self._raise_storage_errors():
            for stored in self._db.execute(
                "SELECT * FROM answers WHERE row <= ? ORDER BY row", (last,)
            ):
                yield RowAnswer(stored[0], stored[2], self._decode(stored))

    def _open_tables(self) -> int:
        """Make the tables, or check those that are there; how many rows had to be forgotten."""
        # A flipped bit can break UTF-8: the CRC must find it, not the decoder.
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._db.execute("PRAGMA synchronous = FULL")
        # A rollback journal that is emptied, not removed, after each commit: a third of the time,
        # and as safe.
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
                # A damaged row may no longer be what the index says of it.
                self._db.execute("DROP INDEX answers_by_prompt")
                self._db.executemany("DELETE FROM answers WHERE row = ?", damaged)
                self._db.execute(_INDEX)
        return len(damaged)

    def _encode(self, row_answer: RowAnswer) -> tuple[Any, ...]:
        answer = row_answer.answer
        probabilities = answer.probabilities
        stored = (
            row_answer.row,
            # A table may hold half of a surrogate pair, SQLite may not.
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
        """Tell what happened to the disk or the file in words, with the remedy."""
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
    """The number as SQLite gives it back: a plain float, and 0.0 in place of -0.0."""
    return None if number is None else float(number) + 0.0


def _restore_value(value: Any) -> Value:
    """A value as it was before it was JSON."""
    return tuple(value) if isinstance(value, list) else cast("Value", value)


def _encode_details(answer: Answer) -> str | None:
    """What few answers have, as JSON; None for those that have none of it."""
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
    except (struct.error, TypeError):  # a flipped bit can make a text of a number
        return False
