"""Runs whose table has changed: rows whose text is unchanged keep their answers.

A run is about what its model reads: the prompt of each row. Gold and other columns can change, rows
can be added, corrected, removed and sorted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.display import format_count
from medtask.errors import RunMismatch
from medtask.prediction.predictor import WINDOW, RowAnswer
from medtask.prediction.quotes import locate_quotes
from medtask.records import Prompt, Record
from medtask.runs.ledger import Ledger
from medtask.runs.ledger_comparison import LedgerComparison, TableRow
from medtask.runs.ledger_file import LedgerRecovery
from medtask.runs.manifest import (
    DATA_FACT,
    FIRST_DIGEST,
    get_timestamp,
    list_differences,
    read_manifest,
)
from medtask.runs.session_request import SessionRequest
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.task import Task

MOVE_MARK = "moving_answers"  # in the manifest while answers are moved to other rows
_MIN_SHARE = 0.5  # of the earlier rows, or of the table's, that a table of the same run shares
_NEW_RUN_FIX = "add --new-run to start beside it, or give another folder with --out"


@dataclass(frozen=True, slots=True)
class TableChange:
    """The change of a run's table.

    Attributes:
        comparison: The answers of the run beside the rows of the table.
        must_move: Whether answers belong to other rows than before, or rows are asked beside them.
        recovery: How the ledger was recovered for the comparison; None if it was intact.
    """

    comparison: LedgerComparison
    must_move: bool
    recovery: LedgerRecovery | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every earlier row is in the table, and no other row is to be asked."""
        return not (self.comparison.asked or self.comparison.gone)

    @property
    def keeps_most(self) -> bool:
        """Whether most of the earlier rows are in the table."""
        return self.comparison.found >= _MIN_SHARE * self.comparison.earlier

    def describe(self) -> str:
        """What happens to the rows, in one line."""
        found = self.comparison
        if self.keeps_all:
            return (
                "the table has changed only in what the model does not read (gold, other columns "
                f"or the order of rows): {format_count(found.kept, 'row')} reused, none asked anew"
            )
        anew = f"{found.asked:,} asked anew" + (
            f" ({found.changed:,} with a changed text)" if found.changed else ""
        )
        gone = f"{found.gone:,} of the earlier {format_count(found.earlier, 'row')} gone"
        return f"the table has changed: {format_count(found.kept, 'row')} reused, {anew}, {gone}"

    def to_json(self) -> dict[str, Any]:
        """The counts, as in the manifest."""
        found = self.comparison
        return {
            "reused": found.kept,
            "asked": found.asked,
            "changed": found.changed,
            "gone": found.gone,
        }


def find_table_change(
    request: SessionRequest,
    folder: Path,
    identity: Mapping[str, str],
    *,
    read_only: bool = False,
) -> TableChange | None:
    """The change of the table of the run in a folder; None without one, or for another run.

    Other facts of the identities are compared, too. The caller has locked the folder, because a
    damaged ledger is recovered; with ``read_only`` it is an error.
    """
    manifest = read_manifest(folder)
    if manifest is None or request.read_table is None:
        return None
    known: dict[str, str] = manifest["identity"]
    if known.get(DATA_FACT) == identity.get(DATA_FACT) and not manifest.get(MOVE_MARK):
        return None
    if list_differences(ignore_table(known, identity), ignore_table(identity, identity)):
        return None
    path = folder / "ledger.db"
    if not path.exists():
        return None
    with closing(Ledger(path, request.task.outcomes, read_only=read_only)) as ledger:
        comparison = ledger.compare_rows(
            _list_table_rows(request.task, request.read_table()),
            request.rows,
            has_ids=request.task.id_column is not None,
        )
    must_move = bool(comparison.moved or comparison.asked)
    return TableChange(comparison, must_move, ledger.recovery)


def ignore_table(facts: Mapping[str, str], identity: Mapping[str, str]) -> dict[str, str]:
    """Facts without that of the table, and without models if ``identity`` has none."""
    has_model = any(name.startswith("model.") for name in identity)
    return {
        name: fact
        for name, fact in facts.items()
        if name != DATA_FACT and (has_model or not name.startswith("model."))
    }


def explain_refusal(
    folder: Path, change: TableChange, request: SessionRequest, identity: Mapping[str, str]
) -> RunMismatch | None:
    """The error if a table is not that of the run, or may not change; None if it may."""
    known = (read_manifest(folder) or {"identity": {}})["identity"]
    difference = "".join(f"\n  {line}" for line in list_differences(known, identity)[:1])
    found = change.comparison
    if "cascade.alpha" in request.identity_facts and (change.must_move or not change.keeps_all):
        return RunMismatch(
            f"{folder} is a run with a cascade, whose guarantee is for the rows of its table, and "
            f"these have changed:{difference}",
            fix=_NEW_RUN_FIX,
        )
    if not (found.earlier == 0 or change.keeps_most or found.kept >= _MIN_SHARE * found.rows):
        return RunMismatch(
            f"{folder} belongs to another table: {found.found:,} of its "
            f"{format_count(found.earlier, 'row')} are in this one:{difference}",
            fix=_NEW_RUN_FIX,
        )
    return None


def move_answers(ledger: Ledger, request: SessionRequest) -> None:
    """Move the answers of a ledger to the rows of the table that have their texts."""
    assert request.read_table is not None  # else there is no change
    task, read_table = request.task, request.read_table
    ledger.compare_rows(
        _list_table_rows(task, read_table()), request.rows, has_ids=task.id_column is not None
    )
    ledger.replace_answers(_iter_moved_answers(ledger, task, read_table()))


def record_table_change(
    manifest: dict[str, Any], before: Mapping[str, Any], change: TableChange
) -> None:
    """Add a change to a manifest that continues ``before``."""
    earlier_digest = before["identity"].get(DATA_FACT)
    entry = {"at": get_timestamp(), "before": earlier_digest, **change.to_json()}
    manifest["table_changes"] = [*manifest.get("table_changes", ()), entry]
    manifest["data"].setdefault(FIRST_DIGEST, earlier_digest)


def _list_table_rows(task: Task, records: Iterable[Record]) -> Iterator[TableRow]:
    for number, record in enumerate(records, 1):
        # As in the ledger: SQLite rejects lone surrogates.
        name = record.id.encode("utf-8", "backslashreplace").decode()
        yield TableRow(number, name, _hash_record(task, record))


def _hash_record(task: Task, record: Record) -> bytes | None:
    prompt = build_prompt(task, record)
    return hash_prompt(prompt) if isinstance(prompt, Prompt) else None


def _iter_moved_answers(
    ledger: Ledger, task: Task, records: Iterable[Record]
) -> Iterator[RowAnswer]:
    """Yield the known answers to the prompts of a table. Only one row of a prompt has its cost."""
    numbered = enumerate(records, 1)
    while batch := list(islice(numbered, WINDOW)):
        keyed = [
            (row, record, key)
            for row, record in batch
            if (key := _hash_record(task, record)) is not None
        ]
        keys = {key for _, _, key in keyed}
        answers = ledger.find_answers_before(sys.maxsize, keys)
        first_rows = ledger.find_first_rows(keys)
        for row, record, key in keyed:
            if key not in answers:
                continue
            answer = replace(answers[key], record_id=record.id)
            if first_rows[key] != row:
                answer = replace(answer, ms=0.0, tokens_read=0, tokens_reused=0)
            yield RowAnswer(row, key, locate_quotes(task, record, answer))
