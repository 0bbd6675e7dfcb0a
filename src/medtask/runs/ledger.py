"""The ledger of a run: answers in one SQLite file that survives kills and disk faults."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from medtask.atomic_files import open_private
from medtask.errors import StorageError
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, Status
from medtask.runs.ledger_comparison import (
    FORMER_ROWS,
    LedgerComparison,
    TableRow,
    compare_table_rows,
    find_first_rows,
    list_known_answers,
    load_table_rows,
    stage_answers,
    use_staged_answers,
)
from medtask.runs.ledger_file import (
    INSERT,
    LedgerRecovery,
    connect,
    create_tables,
    find_damage,
    is_access_error,
    is_new,
    recover_ledger,
    require_regular,
)
from medtask.runs.ledger_rows import LedgerRow, LedgerRowCodec, is_intact

# A commit waits for the disk several times, and its cost hardly depends on the number of rows.
FLUSH_SECONDS = 0.25


class Ledger:
    """The answers of one run, by row, with one writing process and any number of readers.

    An answer that comes ``FLUSH_SECONDS`` after the last commit or later is committed at once, with
    those before it: a kill loses at most the answers of this time and the engine's current batch.
    Each row has a checksum of its content.

    A damaged file is replaced by one with its intact rows when it is opened for writing, see
    ``recovery``; rows without an answer are asked again. Opened for reading, it is an error.

    Args:
        path: The file; it is created if it does not exist.
        labels: The names of all outcomes.
        read_only: Whether the file must not be changed.

    Attributes:
        recovery: How a damaged file was recovered; None if it was intact.

    Raises:
        StorageError: The file cannot be read or written, or was created with other labels.
    """

    def __init__(self, path: Path, labels: Sequence[str], *, read_only: bool = False) -> None:
        self.path = path
        self._codec = LedgerRowCodec(labels)
        self._pending: list[LedgerRow] = []
        self._flushed = time.monotonic()
        require_regular(path)
        with self._raise_storage_errors():
            if not read_only:
                # SQLite creates its journal with the mode of the database: both are private.
                os.close(open_private(path))
            self._db = connect(path, read_only=read_only)
            try:
                self.recovery = self._check_file(read_only=read_only)
                if not read_only:
                    self._prepare_writing()
            except BaseException:
                self._db.close()
                raise

    def add(self, row_answer: RowAnswer) -> bool:
        """Add an answer; returns whether it and all earlier ones are committed."""
        self._pending.append(self._codec.encode(row_answer))
        if time.monotonic() - self._flushed < FLUSH_SECONDS:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Commit pending answers. After an error they stay pending and can be flushed again."""
        with self._raise_storage_errors():
            if self._pending:
                # SQLite can go on writing to a file that no longer has a name.
                if not self.path.exists():
                    raise sqlite3.OperationalError("the file is gone")
                with self._transaction():
                    self._db.executemany(INSERT, self._pending)
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
        """For each key, the answer of the earliest row before ``row`` that has this key.

        Answers from before a change of the table are found, too.
        """
        self.flush()
        query = (
            "SELECT * FROM answers WHERE prompt_key = ? AND (row < ? OR row >= ?) ORDER BY row "
            "LIMIT 1"
        )
        found = {}
        with self._raise_storage_errors():
            for key in keys:
                stored = self._db.execute(query, (key, row, FORMER_ROWS)).fetchone()
                # SQLite trusts its index; with a damaged one, a row could get the answer to another
                # question.
                if stored and stored[2] == key and is_intact(stored):
                    found[key] = self._codec.decode(stored)
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
                yield RowAnswer(stored[0], stored[2], self._codec.decode(stored))

    def compare_rows(
        self, rows: Iterable[TableRow], last: int, *, has_ids: bool
    ) -> LedgerComparison:
        """Compare the answers with the rows of a changed table, of which ``last`` are answered."""
        self.flush()
        with self._raise_storage_errors():
            load_table_rows(self._db, rows)
            return compare_table_rows(self._db, last, has_ids=has_ids)

    def find_first_rows(self, keys: Collection[bytes]) -> dict[bytes, int]:
        """For each key, the first row with it in the table of the last `compare_rows`."""
        with self._raise_storage_errors():
            return find_first_rows(self._db, keys)

    def replace_answers(self, answers: Iterable[RowAnswer]) -> None:
        """Replace the answers of all rows by those of a changed table.

        One answer to each prompt is also kept under the number of a former row.
        """
        with self._raise_storage_errors():
            stage_answers(
                self._db, chain(map(self._codec.encode, answers), self._list_former_answers())
            )
            # A recovery reads free pages too: they must not hold answers under their old numbers.
            self._db.execute("PRAGMA secure_delete = ON")
            with self._transaction():
                use_staged_answers(self._db)

    def _list_former_answers(self) -> Iterator[LedgerRow]:
        for row, stored in enumerate(list_known_answers(self._db), FORMER_ROWS):
            answer = self._codec.decode(stored[:-1])
            yield self._codec.encode(RowAnswer(row, stored[2], answer))

    def _check_file(self, *, read_only: bool) -> LedgerRecovery | None:
        labels = self._codec.labels
        damage = find_damage(self.path, self._db, labels)
        if damage is None:
            return None
        if read_only:
            raise StorageError(f"{self.path} is damaged: {damage}", fix=_DAMAGED_FIX)
        self._db.close()
        recovery = recover_ledger(self.path, labels, damage)
        self._db = connect(self.path)
        return recovery

    def _prepare_writing(self) -> None:
        self._db.execute("PRAGMA synchronous = FULL")
        # PERSIST empties the rollback journal instead of deleting it: as safe, in a third of the
        # time.
        self._db.execute("PRAGMA journal_mode = PERSIST")
        if is_new(self._db):
            with self._transaction():
                create_tables(self._db, self._codec.labels)

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
            fix = "remove the link" if error.errno == errno.ELOOP else _ACCESS_FIX
            raise StorageError(
                f"{self.path} cannot be opened: {error.strerror}", fix=fix
            ) from error
        except sqlite3.Error as error:
            if not self.path.exists():
                raise StorageError(
                    f"{self.path} was removed while it was in use", fix=_REMOVED_FIX
                ) from error
            if not is_access_error(error):
                raise StorageError(f"{self.path} is damaged: {error}", fix=_DAMAGED_FIX) from error
            raise StorageError(
                f"{self.path} cannot be read or written: {error}", fix=_ACCESS_FIX
            ) from error


_DAMAGED_FIX = (
    "run the command of the run again: intact answers are kept, the others are asked again"
)
_REMOVED_FIX = (
    "run the same command again: all rows are asked again, because their answers were in that file"
)
_ACCESS_FIX = (
    "free space or give access, then run the same command again: what is in the ledger is "
    "not asked again"
)
