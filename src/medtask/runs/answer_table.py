"""Answers to be looked at: those of a run's folder, or a table that any tool wrote, with gold
beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

from medtask.display import format_columns, format_suggestion, quote
from medtask.errors import InputError, StorageError, TableError, UsageError
from medtask.records import Answer, Option, Prompt, Record, Status, Value
from medtask.runs.ledger import Ledger
from medtask.runs.manifest import MANIFEST_FILE, read_manifest
from medtask.runs.output_columns import OUTPUT_COLUMNS, rename_columns
from medtask.runs.task_inference import (
    PROBABILITY_PREFIX,
    infer_task,
    read_probabilities,
    read_probability,
)
from medtask.tables.cell_values import read_cell, unescape_formula
from medtask.tables.read import read_table, validate_table
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt, find_prompt_columns
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.serialization import task_from_dict
from medtask.tasks.task import Task

GOLD_COLUMN_NAMES = ("gold", "label", "labels", "answer")
TEXT_COLUMN_NAMES = ("text", "input", "question")
_STATUSES_WITH_ANSWER = (
    None,
    Status.OK,
    Status.REVIEW,
    Status.TRUNCATED,
)  # statuses of rows that may have an answer
_UNKNOWN_ANSWER_REASON = "the answer is none that the task has"
_INFERENCE_ROWS = 1000  # rows whose probabilities tell whether they sum to 1


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
        name = _read_id(task, cells, number)
        prompt = build_prompt(task, Record(name, fields)) if task.input else None
        text, options = (prompt.text, prompt.options) if isinstance(prompt, Prompt) else ("", ())
        gold = read_gold(task, fields, self.gold.get_gold(name, cells)) if self.gold else None
        group = read_cell(cells.get(task.group_column)) if task.group_column else None
        answer = _read_answer(task, name, cells, fields, number)
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


def open_answers(
    source: str | Path,
    *,
    gold: str | None = None,
    task: Task | None = None,
    kind: str | None = None,
    group: str | None = None,
    sheet: str | None = None,
) -> AnswerTable:
    """The answers of a run's folder (or one of its tables), or of a table with the columns id and
    answer.

    ``gold``: a column, or a file (FILE#COLUMN) with the same ids; without it the column that the
    run or task names, or one called gold. ``task`` takes the place of what the manifest says, or of
    what can be found out about a table; ``kind`` says that one thing. ``group``: the column of what
    belongs together. Raises UsageError, TableError, InputError.
    """
    source = Path(source)
    folder = _find_run_folder(source)
    answers = _open_run(folder, task) if folder else _open_table(source, task, sheet)
    if group is not None:
        if group not in answers.table.columns:
            raise _make_missing_column_error("groups", group, answers.table)
        answers = replace(answers, task=replace(answers.task, group_column=group))
    validate_table(answers.table, answers.task.id_column)
    answers = _open_gold(answers, gold)
    if folder:
        return answers
    return replace(answers, external=True) if task else _infer_task(answers, kind)


def _find_run_folder(source: Path) -> Path | None:
    """The run's folder, where ``source`` is one, or one of the tables in it."""
    if (source / MANIFEST_FILE).is_file():
        return source
    if source.name.startswith("answers.") and (source.parent / MANIFEST_FILE).is_file():
        return source.parent
    if (source / "runs").is_dir():
        raise UsageError(
            f"{source} is a task's folder, not a run's",
            fix=f"name one of the runs in {source / 'runs'}",
        )
    return None


def _open_run(folder: Path, task: Task | None) -> AnswerTable:
    manifest = read_manifest(folder) or {}
    path = folder / "answers.parquet"
    if not path.exists():
        fix = "run its command again, until it has finished"
        raise InputError(
            f"{folder} has no answers yet: the run is {manifest.get('state', 'not finished')}",
            fix=fix,
        )
    try:
        facts, data, settings = manifest["task"], manifest["data"], manifest["settings"]
        task = task or task_from_dict(
            facts["name"], facts["question"], fingerprint=facts["fingerprint"]
        )
    except (LookupError, TypeError, ValueError) as error:
        fix = "name the task file with --task"
        raise InputError(
            f"the manifest of {folder} does not tell what was asked", fix=fix
        ) from error
    names = rename_columns(task, data["columns"])
    task = replace(task, source=task.source or _find_task_file(folder, facts["source"]))
    gold = settings["gold_column"] or task.gold_column
    renamed = replace(
        task,
        id_column=names.get(task.id_column or ""),
        gold_column=names.get(gold or ""),
        group_column=names.get(task.group_column or ""),
    )
    return AnswerTable(
        folder.name,
        folder,
        manifest,
        renamed,
        read_table(path),
        renamed_columns={shown: name for name, shown in names.items()},
    )


def _find_task_file(folder: Path, task_source: str | None) -> Path | None:
    """The task's file, where it still lies as the run was told, or above the run's folder."""
    if task_source is None:
        return None
    return next(
        (
            path
            for path in (
                Path(task_source),
                folder.absolute().parent.parent / Path(task_source).name,
            )
            if path.is_file()
        ),
        None,
    )


def _open_table(source: Path, task: Task | None, sheet: str | None) -> AnswerTable:
    table = read_table(source, sheet=sheet)
    columns = set(table.columns)
    if "answer" not in columns:
        raise _make_missing_column_error("answers", "answer", table)
    name = task.id_column if task and task.id_column in columns else "id"
    if name not in columns:
        raise _make_missing_column_error("ids", "id", table)
    answers = task or Task(
        source.stem,
        "",
        _make_input_template(
            next((column for column in TEXT_COLUMN_NAMES if column in columns), None)
        ),
    )
    if not find_prompt_columns(answers) <= columns:
        answers = replace(answers, input="")
    gold = next((column for column in (answers.gold_column, "gold") if column in columns), None)
    group = next((column for column in (answers.group_column, "group") if column in columns), None)
    return AnswerTable(
        source.stem,
        None,
        {},
        replace(answers, id_column=name, gold_column=gold, group_column=group),
        table,
    )


def _make_input_template(column: str | None) -> str:
    return f"{{{{ {column} }}}}" if column else ""


def _open_gold(answers: AnswerTable, gold: str | None) -> AnswerTable:
    columns = answers.table.columns
    if gold is None:
        gold_column = answers.task.gold_column
        return (
            replace(answers, gold=GoldLocation(f'column "{gold_column}"', gold_column))
            if gold_column in columns and gold_column
            else answers
        )
    shown = answers.find_column_name(gold)
    if shown in columns:
        return replace(answers, gold=GoldLocation(f'column "{gold}"', shown))
    path, _, column = gold.partition("#")
    if not Path(path).is_file():
        fix = f"name a column ({format_columns(columns)}), or a file with the columns id and gold"
        raise UsageError(
            f"{quote(gold)} is no column of {answers.table.source}, and no "
            f"file{format_suggestion(gold, columns)}",
            fix=fix,
        )
    return _read_gold_file(answers, Path(path), column)


def _read_gold_file(answers: AnswerTable, path: Path, column: str) -> AnswerTable:
    table = read_table(path)
    id_column = next(
        (name for name in (answers.task.id_column, "id") if name in table.columns), None
    )
    if id_column is None:
        raise _make_missing_column_error("ids", answers.task.id_column or "id", table)
    other_columns = [name for name in table.columns if name != id_column]
    wanted = (
        (column,)
        if column
        else (
            answers.task.gold_column,
            *GOLD_COLUMN_NAMES,
            *other_columns[: len(other_columns) == 1],
        )
    )
    truth = next((name for name in wanted if name in other_columns), None)
    if truth is None:
        fix = f"name its column, as in {path}#COLUMN: it has {format_columns(other_columns)}"
        raise UsageError(f"{path} does not tell which column holds the truth", fix=fix)
    validate_table(table, id_column)
    answer_ids = {
        _read_id(answers.task, cells, number)
        for number, cells in enumerate(answers.table.rows(), 1)
    }
    # Gold may be filled into a table that medtask wrote, where an id that looks like a formula has
    # its apostrophe.
    ids = ((read_cell(row[id_column]) or "", row[truth]) for row in table.rows())
    gold_by_id = {
        name if name in answer_ids else unescape_formula(name): cell for name, cell in ids
    }
    unknown_ids = len(gold_by_id.keys() - answer_ids)
    if gold_by_id and unknown_ids == len(gold_by_id):
        where = (
            f'the column "{answers.task.id_column}"'
            if answers.task.id_column
            else "the numbers of the rows"
        )
        raise TableError(
            f"none of the {len(gold_by_id):,} ids of {path} is among the answers",
            fix=f"the answers' ids are {where}",
        )
    notes = (
        (f"{unknown_ids:,} of the {len(gold_by_id):,} ids of {path} are not among the answers",)
        if unknown_ids
        else ()
    )
    gold = GoldLocation(f'{path}, column "{truth}"', by_id=gold_by_id)
    return replace(answers, gold=gold, notes=(*answers.notes, *notes))


def _infer_task(answers: AnswerTable, kind: str | None) -> AnswerTable:
    """What was asked, from the cells themselves."""
    sums = [
        sum(probabilities.values())
        for row in islice(_list_probabilities(answers), _INFERENCE_ROWS)
        if (probabilities := row)
    ]
    cells = (
        (
            row["answer"],
            answers.gold.get_gold(_read_id(answers.task, row, number), row)
            if answers.gold
            else None,
        )
        for number, row in enumerate(answers.table.rows(), 1)
    )
    names = dict.fromkeys(
        name
        for shares in islice(_list_probabilities(answers), _INFERENCE_ROWS)
        if shares
        for name in shares
    )
    sum_to_one = bool(sums) and all(abs(total - 1) < 0.02 for total in sums)
    task = infer_task(answers.task.name, cells, names, sum_to_one, kind)
    columns: dict[str, Any] = {
        name: getattr(answers.task, name)
        for name in ("input", "id_column", "gold_column", "group_column")
    }
    labels = (
        f" with {len(task.labels):,} label{'s' * (len(task.labels) != 1)}" if task.labels else ""
    )
    notes = (
        []
        if kind
        else [
            f"taken for answers of the kind {task.kind}{labels} (--kind or --task says otherwise)"
        ]
    )
    case_variants = len(task.labels) - len({label.name.casefold() for label in task.labels})
    if case_variants:
        notes.append(
            f"{case_variants:,} of the labels differ from others in capital letters only, and "
            "are held "
            "to be different"
        )
    return replace(answers, task=replace(task, **columns), notes=(*answers.notes, *notes))


def _list_probabilities(answers: AnswerTable) -> Iterator[Mapping[str, float] | None]:
    return (
        read_probabilities(cells, "probabilities", number)
        for number, cells in enumerate(answers.table.rows(), 1)
    )


def _read_id(task: Task, cells: Mapping[str, object], number: int) -> str:
    return str(number) if task.id_column is None else read_cell(cells.get(task.id_column)) or ""


def _read_answer(
    task: Task, name: str, cells: Mapping[str, object], fields: Mapping[str, object], number: int
) -> Answer:
    cell = cells.get("answer")
    status = _read_status(cells.get("status"), number)
    # None of them applies: an answer like any other.
    is_empty_set = task.several and (
        cell == [] or (read_cell(cell) is None and status in (Status.OK, Status.REVIEW))
    )
    # What stands beside "failed" or "too long" is no answer, whatever it says.
    value = (
        None
        if status not in _STATUSES_WITH_ANSWER
        else ()
        if is_empty_set
        else read_gold(task, fields, cell)
    )
    probabilities = read_probabilities(cells, "probabilities", number)
    confidence = (
        read_probability(cells.get("confidence"), "confidence", number)
        if value is not None
        else None
    )
    if confidence is None and isinstance(value, str) and probabilities:
        confidence = probabilities.get(value)
    reason = read_cell(cells.get("reason"))
    if status in (None, Status.OK, Status.REVIEW) and value is None:
        status, reason = Status.FAILED, reason or "the table has no answer in this row"
    written, passed = read_cell(cells.get("written")), read_cell(cells.get("pass")) or "first"
    raw = read_probabilities(cells, "uncalibrated", number)
    return Answer(
        name,
        status or Status.OK,
        value,
        confidence,
        probabilities,
        text=written,
        reason=reason,
        pass_name=passed,
        uncalibrated=raw,
    )


def _add_details(answer: Answer, stored: Answer) -> Answer:
    """The answer as the tables tell it (by thresholds and calibration), with what else is known of
    it.
    """
    decided: Any = {
        name: getattr(answer, name)
        for name in ("status", "value", "confidence", "probabilities", "uncalibrated", "reason")
    }
    return replace(stored, **decided)


def _read_status(cell: object, number: int) -> Status | None:
    text = read_cell(cell)
    if text is None:
        return None
    try:
        return Status(text.lower())
    except ValueError:
        fix = f"write one of {', '.join(Status)}, or leave the column out"
        raise TableError(
            f"row {number}: what the column status says is not known", fix=fix
        ) from None


def _make_missing_column_error(what: str, column: str, table: Table) -> TableError:
    message = (
        f"{table.source} has no column {quote(column)} for the "
        f"{what}{format_suggestion(column, table.columns)}"
    )
    way = "name another" if what == "groups" else f"rename the column that holds the {what}"
    return TableError(message, fix=f"{way}: it has {format_columns(table.columns)}")
