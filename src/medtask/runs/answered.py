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

from medtask.data.guard import unguard
from medtask.data.read import read_table, survey
from medtask.data.table import Table
from medtask.errors import InputError, StorageError, TableError, UsageError
from medtask.records import Answer, Option, Prompt, Record, Status, Value
from medtask.runs.finalise import rename_columns
from medtask.runs.guess import SHARE, guess_task, read_share, read_shares
from medtask.runs.ledger import Ledger
from medtask.runs.manifest import FILE, read_manifest
from medtask.tasks.facts import read_facts
from medtask.tasks.gold import find_strange, read_gold
from medtask.tasks.hints import did_you_mean, list_columns, quote
from medtask.tasks.hygiene import read_cell
from medtask.tasks.prompt import build_prompt, input_columns
from medtask.tasks.task import Task

GOLD_NAMES = ("gold", "label", "labels", "answer")
TEXT_NAMES = ("text", "input", "question")
_OURS = frozenset(
    {
        "answer",
        "confidence",
        "status",
        "reason",
        "pass",
        "probabilities",
        "uncalibrated",
        "written",
        "quotes",
    }
)
_CARRY = (
    None,
    Status.OK,
    Status.REVIEW,
    Status.TRUNCATED,
)  # statuses of rows that may have an answer
_NAMED = ("label", "labels", "choice")  # kinds whose answers are names of a set
_STRANGE = "the answer is none that the task has"
_GUESSED = 1000  # rows whose probabilities tell whether they sum to 1


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
class Gold:
    """Where the truth stands: in a ``column`` of the answers' own table, or ``by_id``, out of
    another file.
    """

    source: str
    column: str = ""
    by_id: Mapping[str, object] | None = None

    def find(self, name: str, cells: Mapping[str, object]) -> object:
        return cells.get(self.column) if self.by_id is None else self.by_id.get(name)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that can be passed over again and again.

    ``folder``: the run's, None for another tool's table; ``manifest`` is empty for those. ``task``:
    what was asked, as far as it is known; its columns are those of ``table``. ``columns``: names
    that a run had to change, as they were. ``foreign``: another tool's answers, held against a task
    that was not found out from them: it may not have them.
    """

    name: str
    folder: Path | None
    manifest: Mapping[str, Any]
    task: Task
    table: Table
    gold: Gold | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    foreign: bool = False

    @property
    def has_gold(self) -> bool:
        return self.gold is not None

    @property
    def own_columns(self) -> dict[str, str]:
        """The columns that were asked about, as they are called in this table -> as the row's
        fields call them.
        """
        return {
            name: self.columns.get(name, name)
            for name in self.table.columns
            if name not in _OURS and not name.startswith(SHARE)
        }

    def name_here(self, column: str) -> str:
        """What a column that was asked about is called in ``table``; the name itself where a run
        did not change it.
        """
        return {name: here for here, name in self.columns.items()}.get(column, column)

    def rows(self) -> Iterator[AnsweredRow]:
        """Every row, streamed. TableError where a cell cannot be what its column says."""
        kept = self._open_ledger()
        with closing(kept) if kept else nullcontext():
            told = kept.answers(sys.maxsize) if kept else repeat(None)
            own = self.own_columns
            for (number, cells), given in zip(enumerate(self.table.rows(), 1), told, strict=False):
                row = self._read(number, cells, own)
                yield row._replace(answer=_add_details(row.answer, given.answer)) if given else row

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

    def _read(
        self, number: int, cells: Mapping[str, object], own: Mapping[str, str]
    ) -> AnsweredRow:
        task = self.task
        fields = {field: cells.get(name) for name, field in own.items()}
        name = _read_id(task, cells, number)
        prompt = build_prompt(task, Record(name, fields)) if task.input else None
        text, options = (prompt.text, prompt.options) if isinstance(prompt, Prompt) else ("", ())
        gold = read_gold(task, fields, self.gold.find(name, cells)) if self.gold else None
        group = read_cell(cells.get(task.group_column)) if task.group_column else None
        answer = _read_answer(task, name, cells, fields, number)
        if (
            self.foreign
            and answer.value is not None
            and task.kind in _NAMED
            and find_strange(task, fields, answer.value)
        ):
            answer = replace(
                answer, status=Status.UNPARSABLE, value=None, confidence=None, reason=_STRANGE
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
) -> Answers:
    """The answers of a run's folder (or one of its tables), or of a table with the columns id and
    answer.

    ``gold``: a column, or a file (FILE#COLUMN) with the same ids; without it the column that the
    run or task names, or one called gold. ``task`` takes the place of what the manifest says, or of
    what can be found out about a table; ``kind`` says that one thing. ``group``: the column of what
    belongs together. Raises UsageError, TableError, InputError.
    """
    source = Path(source)
    folder = _find_run(source)
    found = _open_run(folder, task) if folder else _open_table(source, task, sheet)
    if group is not None:
        if group not in found.table.columns:
            raise _no_column("groups", group, found.table)
        found = replace(found, task=replace(found.task, group_column=group))
    survey(found.table, found.task.id_column)
    found = _open_gold(found, gold)
    if folder:
        return found
    return replace(found, foreign=True) if task else _guess(found, kind)


def _find_run(source: Path) -> Path | None:
    """The run's folder, where ``source`` is one, or one of the tables in it."""
    if (source / FILE).is_file():
        return source
    if source.name.startswith("answers.") and (source.parent / FILE).is_file():
        return source.parent
    if (source / "runs").is_dir():
        raise UsageError(
            f"{source} is a task's folder, not a run's",
            fix=f"name one of the runs in {source / 'runs'}",
        )
    return None


def _open_run(folder: Path, task: Task | None) -> Answers:
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
        task = task or read_facts(
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
    return Answers(
        folder.name,
        folder,
        manifest,
        renamed,
        read_table(path),
        columns={shown: name for name, shown in names.items()},
    )


def _find_task_file(folder: Path, source: str | None) -> Path | None:
    """The task's file, where it still lies as the run was told, or above the run's folder."""
    if source is None:
        return None
    return next(
        (
            path
            for path in (Path(source), folder.absolute().parent.parent / Path(source).name)
            if path.is_file()
        ),
        None,
    )


def _open_table(source: Path, task: Task | None, sheet: str | None) -> Answers:
    table = read_table(source, sheet=sheet)
    columns = set(table.columns)
    if "answer" not in columns:
        raise _no_column("answers", "answer", table)
    name = task.id_column if task and task.id_column in columns else "id"
    if name not in columns:
        raise _no_column("ids", "id", table)
    found = task or Task(
        source.stem, "", _show(next((column for column in TEXT_NAMES if column in columns), None))
    )
    if not input_columns(found) <= columns:
        found = replace(found, input="")
    gold = next((column for column in (found.gold_column, "gold") if column in columns), None)
    group = next((column for column in (found.group_column, "group") if column in columns), None)
    return Answers(
        source.stem,
        None,
        {},
        replace(found, id_column=name, gold_column=gold, group_column=group),
        table,
    )


def _show(column: str | None) -> str:
    return f"{{{{ {column} }}}}" if column else ""


def _open_gold(found: Answers, gold: str | None) -> Answers:
    columns = found.table.columns
    if gold is None:
        named = found.task.gold_column
        return (
            replace(found, gold=Gold(f'column "{named}"', named))
            if named in columns and named
            else found
        )
    shown = found.name_here(gold)
    if shown in columns:
        return replace(found, gold=Gold(f'column "{gold}"', shown))
    path, _, column = gold.partition("#")
    if not Path(path).is_file():
        fix = f"name a column ({list_columns(columns)}), or a file with the columns id and gold"
        raise UsageError(
            f"{quote(gold)} is no column of {found.table.source}, and no "
            f"file{did_you_mean(gold, columns)}",
            fix=fix,
        )
    return _read_gold_file(found, Path(path), column)


def _read_gold_file(found: Answers, path: Path, column: str) -> Answers:
    table = read_table(path)
    id_column = next((name for name in (found.task.id_column, "id") if name in table.columns), None)
    if id_column is None:
        raise _no_column("ids", found.task.id_column or "id", table)
    others = [name for name in table.columns if name != id_column]
    wanted = (
        (column,) if column else (found.task.gold_column, *GOLD_NAMES, *others[: len(others) == 1])
    )
    truth = next((name for name in wanted if name in others), None)
    if truth is None:
        fix = f"name its column, as in {path}#COLUMN: it has {list_columns(others)}"
        raise UsageError(f"{path} does not tell which column holds the truth", fix=fix)
    survey(table, id_column)
    known = {
        _read_id(found.task, cells, number) for number, cells in enumerate(found.table.rows(), 1)
    }
    # Gold may be filled into a table that medtask wrote, where an id that looks like a formula has
    # its apostrophe.
    ids = ((read_cell(row[id_column]) or "", row[truth]) for row in table.rows())
    truths = {name if name in known else unguard(name): cell for name, cell in ids}
    strangers = len(truths.keys() - known)
    if truths and strangers == len(truths):
        where = (
            f'the column "{found.task.id_column}"'
            if found.task.id_column
            else "the numbers of the rows"
        )
        raise TableError(
            f"none of the {len(truths):,} ids of {path} is among the answers",
            fix=f"the answers' ids are {where}",
        )
    notes = (
        (f"{strangers:,} of the {len(truths):,} ids of {path} are not among the answers",)
        if strangers
        else ()
    )
    gold = Gold(f'{path}, column "{truth}"', by_id=truths)
    return replace(found, gold=gold, notes=(*found.notes, *notes))


def _guess(found: Answers, kind: str | None) -> Answers:
    """What was asked, from the cells themselves."""
    sums = [
        sum(shares.values()) for row in islice(_list_shares(found), _GUESSED) if (shares := row)
    ]
    cells = (
        (
            row["answer"],
            found.gold.find(_read_id(found.task, row, number), row) if found.gold else None,
        )
        for number, row in enumerate(found.table.rows(), 1)
    )
    names = dict.fromkeys(
        name for shares in islice(_list_shares(found), _GUESSED) if shares for name in shares
    )
    sure = bool(sums) and all(abs(total - 1) < 0.02 for total in sums)
    task = guess_task(found.task.name, cells, names, sure, kind)
    columns: dict[str, Any] = {
        name: getattr(found.task, name)
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
    twins = len(task.labels) - len({label.name.casefold() for label in task.labels})
    if twins:
        notes.append(
            f"{twins:,} of the labels differ from others in capital letters only, and are held "
            "to be different"
        )
    return replace(found, task=replace(task, **columns), notes=(*found.notes, *notes))


def _list_shares(found: Answers) -> Iterator[Mapping[str, float] | None]:
    return (
        read_shares(cells, "probabilities", number)
        for number, cells in enumerate(found.table.rows(), 1)
    )


def _read_id(task: Task, cells: Mapping[str, object], number: int) -> str:
    return str(number) if task.id_column is None else read_cell(cells.get(task.id_column)) or ""


def _read_answer(
    task: Task, name: str, cells: Mapping[str, object], fields: Mapping[str, object], number: int
) -> Answer:
    cell = cells.get("answer")
    status = _read_status(cells.get("status"), number)
    # None of them applies: an answer like any other.
    none = task.several and (
        cell == [] or (read_cell(cell) is None and status in (Status.OK, Status.REVIEW))
    )
    # What stands beside "failed" or "too long" is no answer, whatever it says.
    value = None if status not in _CARRY else () if none else read_gold(task, fields, cell)
    shares = read_shares(cells, "probabilities", number)
    confidence = (
        read_share(cells.get("confidence"), "confidence", number) if value is not None else None
    )
    if confidence is None and isinstance(value, str) and shares:
        confidence = shares.get(value)
    reason = read_cell(cells.get("reason"))
    if status in (None, Status.OK, Status.REVIEW) and value is None:
        status, reason = Status.FAILED, reason or "the table has no answer in this row"
    written, passed = read_cell(cells.get("written")), read_cell(cells.get("pass")) or "first"
    raw = read_shares(cells, "uncalibrated", number)
    return Answer(
        name,
        status or Status.OK,
        value,
        confidence,
        shares,
        text=written,
        reason=reason,
        pass_name=passed,
        uncalibrated=raw,
    )


def _add_details(answer: Answer, kept: Answer) -> Answer:
    """The answer as the tables tell it (by thresholds and calibration), with what else is known of
    it.
    """
    told: Any = {
        name: getattr(answer, name)
        for name in ("status", "value", "confidence", "probabilities", "uncalibrated", "reason")
    }
    return replace(kept, **told)


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


def _no_column(what: str, column: str, table: Table) -> TableError:
    message = (
        f"{table.source} has no column {quote(column)} for the "
        f"{what}{did_you_mean(column, table.columns)}"
    )
    way = "name another" if what == "groups" else f"rename the column that holds the {what}"
    return TableError(message, fix=f"{way}: it has {list_columns(table.columns)}")
