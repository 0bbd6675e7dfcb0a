"""Comparison of a ledger with a changed table, and the move of its answers to the table's rows.

The rows of the table are in temporary tables of SQLite, so that memory does not grow with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from medtask.runs.ledger_file import ANSWER_COLUMNS, INSERT

# When a table changes, one answer to each text so far is kept under a number from here on. A text
# that comes back is not asked again; and what a model was asked before the change has no place in
# the batches after it, also if they are interrupted.
FORMER_ROWS = 2**40


class TableRow(NamedTuple):
    """A row of a table: its number, its id, and the hash of its prompt (None without a prompt)."""

    number: int
    record_id: str
    key: bytes | None


@dataclass(frozen=True, slots=True)
class LedgerComparison:
    """A ledger beside the rows of a table.

    Attributes:
        rows: Rows of the table that are to be answered.
        asked: Those whose prompt has no answer.
        changed: Those of them whose id had an answer to another text.
        earlier: Answers of the ledger to rows of the earlier table.
        gone: Those whose row is not in the table any more: no such id, or without ids, no such
            text.
        found: Those whose text is in the table.
        moved: Those whose row has another number, id or text in the table.
    """

    rows: int
    asked: int
    changed: int
    earlier: int
    gone: int
    found: int
    moved: int

    @property
    def kept(self) -> int:
        """Rows that need no new answer of a model."""
        return self.rows - self.asked


def load_table_rows(db: sqlite3.Connection, rows: Iterable[TableRow]) -> None:
    """Load the rows of a table into a temporary table of the connection."""
    db.execute("DROP TABLE IF EXISTS temp.incoming")
    db.execute("BEGIN")
    db.execute("CREATE TEMP TABLE incoming (row INTEGER PRIMARY KEY, id TEXT NOT NULL, key BLOB)")
    db.executemany("INSERT INTO temp.incoming VALUES (?, ?, ?)", rows)
    db.execute("CREATE INDEX temp.incoming_by_key ON incoming (key)")
    db.execute("CREATE INDEX temp.incoming_by_id ON incoming (id)")
    db.execute("COMMIT")


def compare_table_rows(db: sqlite3.Connection, last: int, *, has_ids: bool) -> LedgerComparison:
    """Compare the loaded rows with the answers; rows after ``last`` are not to be answered."""

    def count(query: str, *values: int) -> int:
        (found,) = db.execute(f"SELECT count(*) FROM {query}", values).fetchone()  # noqa: S608 - fixed texts
        return int(found)

    unanswered = (  # rows whose prompt has no answer
        "temp.incoming AS new WHERE new.row <= ? AND new.key IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM answers WHERE prompt_key = new.key)"
    )
    earlier = "answers AS old WHERE old.row < ?"
    same_text = "(SELECT 1 FROM temp.incoming WHERE key = old.prompt_key)"
    same_id = "(SELECT 1 FROM temp.incoming WHERE id = old.id)"
    same_row = (
        "(SELECT 1 FROM temp.incoming AS new WHERE new.row = old.row AND new.id = old.id"
        " AND new.key IS old.prompt_key)"
    )
    gone = same_id if has_ids else same_text
    without_text = "" if has_ids else " AND old.prompt_key IS NOT NULL"
    return LedgerComparison(
        rows=count("temp.incoming WHERE row <= ?", last),
        asked=count(unanswered, last),
        changed=count(
            unanswered  # noqa: S608 - fixed texts
            + " AND EXISTS (SELECT 1 FROM answers AS old WHERE old.id = new.id AND old.row < ?)",
            last,
            FORMER_ROWS,
        )
        if has_ids
        else 0,
        earlier=count(earlier, FORMER_ROWS),
        gone=count(f"{earlier}{without_text} AND NOT EXISTS {gone}", FORMER_ROWS),
        found=count(
            f"{earlier} AND (EXISTS {same_text} OR old.prompt_key IS NULL AND EXISTS {same_id})",
            FORMER_ROWS,
        ),
        moved=count(f"{earlier} AND NOT EXISTS {same_row}", FORMER_ROWS),
    )


def find_first_rows(db: sqlite3.Connection, keys: Collection[bytes]) -> dict[bytes, int]:
    """For each key the number of the first loaded row that has it."""
    query = "SELECT min(row) FROM temp.incoming WHERE key = ?"
    found = {key: db.execute(query, (key,)).fetchone()[0] for key in keys}
    return {key: row for key, row in found.items() if row is not None}


def list_known_answers(db: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Yield the first answer to each prompt."""
    yield from db.execute(
        "SELECT *, min(row) FROM answers WHERE prompt_key IS NOT NULL GROUP BY prompt_key"
    )


def stage_answers(db: sqlite3.Connection, stored: Iterable[tuple[Any, ...]]) -> None:
    """Write rows of answers into a temporary table; see `use_staged_answers`."""
    db.execute("DROP TABLE IF EXISTS temp.staged")
    db.execute("BEGIN")
    db.execute(f"CREATE TEMP TABLE staged ({ANSWER_COLUMNS})")
    db.executemany(INSERT.replace("answers", "temp.staged"), stored)
    db.execute("COMMIT")


def use_staged_answers(db: sqlite3.Connection) -> None:
    """Replace all answers by the staged ones; the caller opens the transaction."""
    db.execute("DELETE FROM answers")
    db.execute("INSERT INTO answers SELECT * FROM temp.staged")
