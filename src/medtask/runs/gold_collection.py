"""`medtask.gold`: corrections that people wrote, joined with the gold that there was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from medtask.display import format_count, format_list, format_path
from medtask.errors import InputError, UsageError
from medtask.privacy import block_network
from medtask.records import AnsweredRow, Value
from medtask.runs.answer_table import AnswerTable
from medtask.runs.corrections import Correction, Corrections, read_corrections
from medtask.runs.evaluation import choose_folder
from medtask.runs.gold_table import (
    GoldColumns,
    GoldProvenance,
    GoldRow,
    GoldSelection,
    write_gold_table,
)
from medtask.runs.manifest import get_timestamp
from medtask.runs.open_answers import open_answers
from medtask.runs.written_tables import find_written_tables
from medtask.tables.read_options import ReadOptions, ReadOptionValues
from medtask.tables.write import check_formats
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import find_invalid_gold
from medtask.tasks.task import Task

GOLD_FILE = "gold.csv"


@dataclass(frozen=True, slots=True)
class GoldCollection:
    """The result of `medtask.gold`.

    Attributes:
        file: The table of gold.
        task: The task of the answers, with the columns of ``file``.
        rows: Rows with gold.
        added: Those that had none before.
        changed: Those whose gold is another one than before.
        confirmed: Corrections that agree with the answer.
        corrected: Corrections that do not.
        selections: Rows by how they were chosen: "table", "random", "audit" or "review".
        sources: The files that were read.
        notes: What the user should know.
    """

    file: Path
    task: Task
    rows: int
    added: int
    changed: int
    confirmed: int
    corrected: int
    selections: Mapping[str, int]
    sources: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> None:
        """None: `medtask.evaluate` with this gold writes a report."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask gold --json`` prints; it contains no record text."""
        return {
            "file": str(self.file),
            "rows": self.rows,
            "added": self.added,
            "changed": self.changed,
            "confirmed": self.confirmed,
            "corrected": self.corrected,
            "selections": dict(self.selections),
            "sources": [str(path) for path in self.sources],
            "notes": list(self.notes),
        }


def gold(
    source: str | Path,
    *files: str | Path,
    gold: str | None = None,
    selection: str | None = None,
    task: Task | None = None,
    out: str | Path | None = None,
    formats: Sequence[str] = ("csv",),
    **read: Unpack[ReadOptionValues],
) -> GoldCollection:
    """Collect the corrections that people wrote, and join them with the gold that there was.

    The result is a table of gold, ``gold.csv``, for `medtask.evaluate`, `medtask.train` and the
    next call. It says who decided each row, when, and how the row was chosen: rows that were
    reviewed because their answers were doubtful are left out of metrics, acceptance and
    calibration, because their accuracy says nothing about other rows.

    Args:
        source: A run folder, or a table with the columns id and answer.
        files: Tables with a column ``corrected``, such as review.csv, audit samples, and tables of
            gold. By default the tables of the run folder in which something was written.
        gold: The column of earlier gold, or a file; by default the column that the run names.
        selection: How the rows of the files were chosen, if they do not say it: "random", "audit"
            or "review". By default "audit" for audit samples, "review" for tables of answers, and
            "random" for other tables of gold.
        task: The task; required if it cannot be read from the run or inferred from the table.
        out: The folder of gold.csv; by default the run folder.
        formats: The formats in which gold is written, beside CSV.
        read: How tables are read: fields of `ReadOptions` by name, such as ``encoding="cp1250"``.

    Returns:
        The file, and the number of rows by what happened to them.

    Raises:
        UsageError: Nothing was written, or an option is not valid.
        TableError: A table cannot be read, or its rows are not among the answers.
        InputError: Corrections are not valid answers (their rows are named).

    Example:
        >>> medtask.gold("runs/2026-11-20-1412", "runs/2026-11-20-1412/review.csv").file
    """
    check_formats(formats)
    options = ReadOptions(**read)
    with block_network():
        answers = open_answers(source, gold=gold, task=task, read_options=options)
        folder = Path(out) if out else choose_folder(answers, "gold")
        earlier = folder / GOLD_FILE
        sources = [Path(file) for file in files] or find_written_tables(folder)
        if not sources:
            raise UsageError(
                f"nothing was written into a table of {format_path(folder)}",
                fix=(
                    "fill in the column corrected of review.csv (medtask evaluate RUN --max-error "
                    "0.05 writes it) or the column gold of an audit sample (medtask audit RUN)"
                ),
            )
        further = options if answers.folder else options.for_further_tables()
        chosen, now = _check_selection(selection), get_timestamp()
        corrections = [read_corrections(answers, path, further, chosen, now) for path in sources]
        known = (
            read_corrections(answers, earlier, ReadOptions(), at=now)
            if earlier.exists() and earlier.resolve() not in {path.resolve() for path in sources}
            else None
        )
        joined = _join_gold(answers, known, corrections)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix in dict.fromkeys(("csv", *formats)):
            _write_gold(answers, joined.by_id, earlier.with_suffix(f".{suffix}"))
    notes = [*answers.notes, *(note for one in corrections for note in one.notes), *joined.notes]
    written = [one for file in corrections for one in file.by_id.values()]
    return GoldCollection(
        earlier,
        _use_original_names(answers),
        len(joined.by_id),
        joined.added,
        joined.changed,
        sum(one.confirms for one in written),
        sum(not one.confirms for one in written),
        Counter(str(one.provenance.selection) for one in joined.by_id.values()),
        tuple(sources),
        tuple(dict.fromkeys(notes)),
    )


@dataclass(slots=True)
class _JoinedGold:
    """Gold by the id of the row."""

    by_id: dict[str, Correction]
    added: int = 0
    changed: int = 0
    notes: tuple[str, ...] = ()


def _check_selection(name: str | None) -> GoldSelection | None:
    if name is None:
        return None
    allowed = [str(one) for one in GoldSelection if one is not GoldSelection.TABLE]
    if name not in allowed:
        raise UsageError(
            f"{name!r} is not a way to choose rows", fix=f"use one of {', '.join(allowed)}"
        )
    return GoldSelection(name)


def _join_gold(
    answers: AnswerTable, known: Corrections | None, corrections: Sequence[Corrections]
) -> _JoinedGold:
    """Later files replace earlier ones; how a row was chosen is what its first gold says."""
    joined = _JoinedGold({})
    for row in answers.rows():
        if row.gold is not None and not find_invalid_gold(answers.task, row.fields, row.gold):
            confirms = row.gold == row.answer.value
            joined.by_id[row.answer.record_id] = Correction(row.gold, confirms, GoldProvenance())
    for name, one in (known.by_id if known else {}).items():
        before = joined.by_id.get(name)
        # What was copied from the run's table is read there, as it is by now.
        if one.provenance.how and (before is None or before.value != one.value):
            joined.by_id[name] = _keep_selection(one, before)
    by_file: dict[str, Value] = {}
    conflicts = 0
    for file in corrections:
        for name, one in file.by_id.items():
            before = joined.by_id.get(name)
            conflicts += name in by_file and by_file[name] != one.value
            by_file[name] = one.value
            if before is None:
                joined.added += 1
            elif before.value == one.value:
                continue
            else:
                joined.changed += 1
            joined.by_id[name] = _keep_selection(one, before)
    if not joined.by_id:
        names = format_list([format_path(file.path) for file in corrections])
        raise InputError(
            f"{names}: no row has a correction", fix="write the right answers into its column"
        )
    if conflicts:
        joined.notes = (
            f"{format_count(conflicts, 'row')} corrected differently in two files: the later file "
            "counts",
        )
    return joined


def _keep_selection(one: Correction, before: Correction | None) -> Correction:
    if before is None:
        return one
    selection = before.provenance.selection
    return one._replace(provenance=one.provenance._replace(selection=selection))


def _use_original_names(answers: AnswerTable) -> Task:
    """The task with the names that its columns have in the table of the run."""
    original, named = answers.renamed_columns, answers.task
    return replace(
        named,
        id_column=original.get(named.id_column or "", named.id_column),
        gold_column=original.get(named.gold_column or "", named.gold_column),
    )


def _write_gold(answers: AnswerTable, by_id: Mapping[str, Correction], path: Path) -> None:
    task = _use_original_names(answers)
    columns = GoldColumns.of_table(task, answers.source_columns.values())
    write_gold_table(path, columns, _list_rows(task, answers.rows(), by_id))


def _list_rows(
    task: Task, rows: Iterator[AnsweredRow], by_id: Mapping[str, Correction]
) -> Iterator[GoldRow]:
    kind = get_task_kind(task)
    for row in rows:
        if one := by_id.get(row.answer.record_id):
            value = kind.format_gold(one.value, row.options)
            yield GoldRow(row.fields, row.answer.record_id, value, one.provenance)
