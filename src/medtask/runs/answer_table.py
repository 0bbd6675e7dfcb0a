"""Answers to be looked at: those of a run's folder, or a table that any tool wrote, with gold
beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from medtask.errors import StorageError
from medtask.records import Answer, Option, Prompt, Record, Status, Value
from medtask.runs.answer_cells import (
    PROBABILITY_PREFIX,
    read_answer,
    read_id,
)
from medtask.runs.ledger import Ledger
from medtask.runs.output_columns import OUTPUT_COLUMNS
from medtask.tables.cell_values import read_cell
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Task

GOLD_COLUMN_NAMES = ("gold", "label", "labels", "answer")
_UNKNOWN_ANSWER_REASON = "the answer is none that the task has"


class AnsweredRow(NamedTuple):
    """One row's answer, and what is known of the row.

    ``row`` counts from 1. ``text``: the bare input, "" where it is not known. ``gold``: None where
    there is none. ``fields``: the columns of the table that was asked about.
    """

    row: int
    answer: Answer
    text: str
    gold: Value | None
    options: tuple[Option, ...]
    group: str | None
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class GoldLocation:
    """Where the truth stands: in a ``column`` of the answers' own table, or ``by_id``, out of
    another file.
    """

    source: str
    column: str = ""
    by_id: Mapping[str, object] | None = None

    def get_gold(self, name: str, cells: Mapping[str, object]) -> object:
        return cells.get(self.column) if self.by_id is None else self.by_id.get(name)


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Answers that can be passed over again and again.

    ``folder``: the run's, None for another tool's table; ``manifest`` is empty for those. ``task``:
    what was asked, as far as it is known; its columns are those of ``table``. ``renamed_columns``:
    names that a run had to change, as they were. ``external``: another tool's answers, held against
    a task that was not found out from them: it may not have them.
    """

    name: str
    folder: Path | None
    manifest: Mapping[str, Any]
    task: Task
    table: Table
    gold: GoldLocation | None = None
    renamed_columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    external: bool = False

    @property
    def has_gold(self) -> bool:
        return self.gold is not None

    @property
    def source_columns(self) -> dict[str, str]:
        """The columns that were asked about, as they are called in this table -> as the row's
        fields call them.
        """
        return {
            name: self.renamed_columns.get(name, name)
            for name in self.table.columns
            if name not in OUTPUT_COLUMNS and not name.startswith(PROBABILITY_PREFIX)
        }

    def find_column_name(self, column: str) -> str:
        """What a column that was asked about is called in ``table``; the name itself where a run
        did not change it.
        """
        return {name: here for here, name in self.renamed_columns.items()}.get(column, column)

    def rows(self) -> Iterator[AnsweredRow]:
        """Every row, streamed. TableError where a cell cannot be what its column says."""
        ledger = self._open_ledger()
        with closing(ledger) if ledger else nullcontext():
            ledger_answers = ledger.read_answers(sys.maxsize) if ledger else repeat(None)
            source_columns = self.source_columns
            for (number, cells), row_answer in zip(
                enumerate(self.table.rows(), 1), ledger_answers, strict=False
            ):
                row = self._read_row(number, cells, source_columns)
                yield (
                    row._replace(answer=_add_details(row.answer, row_answer.answer))
                    if row_answer
                    else row
                )

    def _open_ledger(self) -> Ledger | None:
        """What the tables leave out (off-set mass, thoughts, earlier passes, costs) stands in the
        run's ledger alone.
        """
        path = self.folder / "ledger.db" if self.folder else None
        if path is None or not path.exists():
            return None
        with suppress(
            StorageError
        ):  # another user's run, say, that may be read and not opened for writing
            return Ledger(path, self.task.outcomes)
        return None

    def _read_row(
        self, number: int, cells: Mapping[str, object], source_columns: Mapping[str, str]
    ) -> AnsweredRow:
        task = self.task
        fields = {field: cells.get(name) for name, field in source_columns.items()}
        name = read_id(task, cells, number)
        prompt = build_prompt(task, Record(name, fields)) if task.input else None
        text, options = (prompt.text, prompt.options) if isinstance(prompt, Prompt) else ("", ())
        gold = read_gold(task, fields, self.gold.get_gold(name, cells)) if self.gold else None
        group = read_cell(cells.get(task.group_column)) if task.group_column else None
        answer = read_answer(task, name, cells, fields, number)
        if (
            self.external
            and answer.value is not None
            and not task.kind_spec.generated
            and find_invalid_gold(task, fields, answer.value)
        ):
            answer = replace(
                answer,
                status=Status.UNPARSABLE,
                value=None,
                confidence=None,
                reason=_UNKNOWN_ANSWER_REASON,
            )
        return AnsweredRow(number, answer, text, gold, options, group, fields)


def _add_details(answer: Answer, stored: Answer) -> Answer:
    """The answer as the tables tell it (by thresholds and calibration), with what else is known of
    it.
    """
    decided: Any = {
        name: getattr(answer, name)
        for name in ("status", "value", "confidence", "probabilities", "uncalibrated", "reason")
    }
    return replace(stored, **decided)
