"""Answers of a run folder or of another tool's table, with gold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medtask.errors import StorageError
from medtask.evaluation.presentation.formatting import count_left_out
from medtask.records import Answer, AnsweredRow, LeftOut, Prompt, Record, Status
from medtask.runs.answer_cells import PROBABILITY_PREFIX, read_answer, read_id
from medtask.runs.ledger import Ledger
from medtask.runs.output_columns import OUTPUT_COLUMNS
from medtask.tables.cell_values import read_present_key
from medtask.tables.missing import MissingText
from medtask.tables.table import Table
from medtask.tasks.cell_counts import CellCounts
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import find_invalid_gold, read_gold, read_gold_column
from medtask.tasks.task import Task

GOLD_COLUMN_NAMES = ("gold", "label", "labels", "answer")
_UNKNOWN_ANSWER_REASON = "the answer is not one that the task allows"


@dataclass(frozen=True, slots=True)
class GoldLocation:
    """Where gold values are read from.

    Attributes:
        source: The source as it is shown to the user.
        column: A column of the answer table.
        by_id: Gold values by id, from another file.
    """

    source: str
    column: str = ""
    by_id: Mapping[str, object] | None = None

    def get_gold(self, name: str, cells: Mapping[str, object]) -> object:
        """The gold cell of a row; a missing value for rows that another file does not have."""
        if self.by_id is None:
            return cells.get(self.column)
        return self.by_id.get(name, MissingText())


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Answers that can be read any number of times.

    Attributes:
        name: The name of the answers.
        folder: The run folder; None for another tool's table.
        manifest: The manifest of the run; empty for another tool's table.
        task: The task, as far as it is known. Its columns are those of ``table``.
        table: The table of answers.
        gold: Where gold is read from; None without gold.
        renamed_columns: Original names of the columns that the run renamed.
        notes: What the user should know.
        left_out: Why rows are left out of metrics, by row number.
        gold_task: The task with the form of gold that its cells have.
        answer_task: The task with the form that answers have.
        form_notes: Notes on the forms of gold and answers.
        external: Whether another tool's answers are read for a task that was not inferred from
            them, so that answers may be unknown to the task.
    """

    name: str
    folder: Path | None
    manifest: Mapping[str, Any]
    task: Task
    table: Table
    gold: GoldLocation | None = None
    renamed_columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: Mapping[int, LeftOut] = field(default_factory=dict)
    gold_task: Task | None = None
    answer_task: Task | None = None
    form_notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    external: bool = False

    @property
    def has_gold(self) -> bool:
        return self.gold is not None

    @property
    def source_columns(self) -> dict[str, str]:
        """Names of the input columns in this table -> names in the row's fields."""
        return {
            name: self.renamed_columns.get(name, name)
            for name in self.table.columns
            if name not in OUTPUT_COLUMNS and not name.startswith(PROBABILITY_PREFIX)
        }

    def count_left_out(self) -> dict[LeftOut, int]:
        """The number of rows, with or without gold, that metrics of answers leave out."""
        return count_left_out(
            reason for reason in self.left_out.values() if reason is not LeftOut.CONFIDENCE
        )

    def find_column_name(self, column: str) -> str:
        """The name in ``table`` of an input column; the same name unless the run renamed it."""
        return {name: here for here, name in self.renamed_columns.items()}.get(column, column)

    def list_ids(self) -> list[str]:
        """The id of every row."""
        return [read_id(self.task, cells, n) for n, cells in enumerate(self.table.rows(), 1)]

    def rows(self) -> Iterator[AnsweredRow]:
        """Yield every row. Raises TableError if a cell is not valid for its column."""
        ledger = self._open_ledger()
        with closing(ledger) if ledger else nullcontext():
            stored = ledger.read_answers(sys.maxsize) if ledger else iter(())
            following = next(stored, None)
            source_columns = self.source_columns
            for number, cells in enumerate(self.table.rows(), 1):
                row = self._read_row(number, cells, source_columns)
                if following is not None and following.row == number:
                    row = row._replace(answer=_add_details(row.answer, following.answer))
                    following = next(stored, None)
                yield row

    def read_form(
        self, get_cell: Callable[[str, Mapping[str, object]], object]
    ) -> tuple[Task, list[str]]:
        """The task with which a column is read, and notes; see `read_gold_column`.

        ``get_cell`` returns a row's cell by its id and the cells of the table.
        """
        columns = self.source_columns
        pairs = (
            (
                {field: cells.get(name) for name, field in columns.items()},
                get_cell(read_id(self.task, cells, number), cells),
            )
            for number, cells in enumerate(self.table.rows(), 1)
        )
        return read_gold_column(self.task, pairs)

    def count_cells(self, columns: Sequence[str] = ()) -> dict[str, CellCounts]:
        """Counts of the cells of gold, of another tool's answers, and of further columns."""
        counts = {
            name: CellCounts(form_notes=self.form_notes.get(name, ()))
            for name, is_read in (("gold", self.has_gold), ("answer", self.folder is None))
            if is_read
        }
        counts |= {column: CellCounts() for column in columns}
        source_columns = self.source_columns
        for number, cells in enumerate(self.table.rows(), 1) if counts else ():
            fields = {field: cells.get(name) for name, field in source_columns.items()}
            if self.gold:
                cell = self.gold.get_gold(read_id(self.task, cells, number), cells)
                counts["gold"].add(self.task, fields, cell)
            if "answer" in counts:
                counts["answer"].add(self.task, fields, cells.get("answer"), is_gold=False)
            for column in columns:
                counts[column].add(self.task, fields, fields.get(column))
        return counts

    def list_ledger_notes(self) -> list[str]:
        """A note if the ledger cannot be read: details without a column are then left out."""
        path = self.folder / "ledger.db" if self.folder else None
        if path is None or not path.exists():
            return []
        try:
            Ledger(path, self.task.outcomes, read_only=True).close()
        except StorageError as error:
            return [
                f"{error}; off-set mass, earlier passes and costs are left out (to repair it: "
                f"{error.fix})"
            ]
        return []

    def _open_ledger(self) -> Ledger | None:
        """Open the ledger, the only place of off-set mass, thoughts, earlier passes and costs."""
        path = self.folder / "ledger.db" if self.folder else None
        if path is None or not path.exists():
            return None
        with suppress(StorageError):  # see list_ledger_notes
            return Ledger(path, self.task.outcomes, read_only=True)
        return None

    def _read_row(
        self, number: int, cells: Mapping[str, object], source_columns: Mapping[str, str]
    ) -> AnsweredRow:
        task = self.task
        fields = {field: cells.get(name) for name, field in source_columns.items()}
        name = read_id(task, cells, number)
        prompt = build_prompt(task, Record(name, fields)) if task.input else None
        text, options = (prompt.text, prompt.options) if isinstance(prompt, Prompt) else ("", ())
        gold_task = self.gold_task or task
        gold = read_gold(gold_task, fields, self.gold.get_gold(name, cells)) if self.gold else None
        group = read_present_key(cells.get(task.group_column)) if task.group_column else None
        answer = read_answer(self.answer_task or task, name, cells, fields, number)
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
        left_out = self.left_out.get(number)
        return AnsweredRow(number, answer, text, gold, options, group, fields, left_out)


def _add_details(answer: Answer, stored: Answer) -> Answer:
    """The answer from the tables (after thresholds and calibration), with the ledger's details."""
    decided: Any = {
        name: getattr(answer, name)
        for name in ("status", "value", "confidence", "probabilities", "uncalibrated", "reason")
    }
    return replace(stored, **decided)
