"""Opening the answers of a run or of another tool's table, with gold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.display import format_columns, format_suggestion, quote
from medtask.errors import InputError, TableError, UsageError
from medtask.names import fold_case
from medtask.runs.answer_cells import (
    get_answer_cell,
    read_id,
    read_probabilities,
)
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable, GoldLocation
from medtask.runs.changed_ids import MatchedIds, match_changed_ids
from medtask.runs.manifest import MANIFEST_FILE, read_manifest
from medtask.runs.measured_rows import (
    extend_to_groups,
    find_left_out,
    fingerprint_examples,
    left_out_from_json,
    make_answered_row_key,
)
from medtask.runs.output_columns import rename_columns
from medtask.runs.task_inference import infer_task
from medtask.tables.cell_values import read_cell, read_key
from medtask.tables.read import read_table, validate_table
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table import Table
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.serialization import task_from_dict
from medtask.tasks.task import Task

TEXT_COLUMN_NAMES = ("text", "input", "question")
_MAX_COMPARED_ROWS = 200_000  # their texts are loaded to find rows whose ids were changed
_INFERENCE_ROWS = 1000  # rows used to find out whether probabilities sum to 1


def open_answers(
    source: str | Path,
    *,
    gold: str | None = None,
    task: Task | None = None,
    kind: str | None = None,
    group: str | None = None,
    read_options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> AnswerTable:
    """Open the answers of a run folder (or of a table in it), or a table with columns id and
    answer.

    Args:
        source: The run folder or table.
        gold: A column, or a file (FILE#COLUMN) with the same ids. By default the column named by
            the run or task, or one called gold.
        task: Replaces the task from the manifest, or the one inferred from the table.
        kind: Replaces the inferred kind of the answers.
        group: The column that identifies dependent rows, such as those of one patient.
        read_options: How the table and the gold file are read. If both are given, sheet and header
            row are those of the table.

    Raises:
        UsageError: The source or an option is not valid.
        TableError: A table cannot be read.
        InputError: The run is not finished.
    """
    source = Path(source)
    folder = _find_run_folder(source)
    answers = (
        _open_run(folder, task, read_options) if folder else _open_table(source, task, read_options)
    )
    if group is not None:
        if group not in answers.table.columns:
            raise _make_missing_column_error("groups", group, answers.table)
        answers = replace(answers, task=replace(answers.task, group_column=group))
    validate_table(answers.table, answers.task.id_column)
    notes = (*answers.notes, *answers.table.guess_notes, *answers.list_ledger_notes())
    answers = replace(answers, notes=notes)
    answers = _open_gold(
        answers, gold, read_options if folder else read_options.for_further_tables()
    )
    if folder:
        return _find_forms(_leave_out_groups(answers))
    if task is None:
        return _find_forms(_infer_task(answers, kind))
    return _find_forms(_leave_out_examples(replace(answers, external=True)))


def _find_forms(answers: AnswerTable) -> AnswerTable:
    """Find out in which form gold and answers name the options of multiple choice."""
    if answers.folder:
        written = get_task_kind(answers.task).with_written_values()
        if written != answers.task:
            answers = replace(answers, answer_task=written)
    else:
        found, notes = answers.read_form(lambda _, cells: cells.get("answer"))
        answers = replace(
            answers,
            answer_task=None if found == answers.task else found,
            form_notes={"answer": notes},
        )
    if answers.gold is None:
        return answers
    found, notes = answers.read_form(answers.gold.get_gold)
    return replace(
        answers,
        gold_task=None if found == answers.task else found,
        form_notes={**answers.form_notes, "gold": notes},
    )


def _leave_out_groups(answers: AnswerTable) -> AnswerTable:
    """Leave out the groups of left out rows if the run had other groups or none."""
    column = answers.task.group_column
    recorded = answers.manifest["task"]["question"]["columns"]["group"]
    if not answers.left_out or column is None or column == answers.find_column_name(recorded or ""):
        return answers
    groups = (read_cell(cells.get(column)) for cells in answers.table.rows())
    return replace(answers, left_out=extend_to_groups(answers.left_out, groups))


def _leave_out_examples(answers: AnswerTable) -> AnswerTable:
    """Leave out the rows that are examples of the task."""
    fingerprints = fingerprint_examples(answers.task) if answers.task.input else []
    if not fingerprints:
        return answers
    keys = (make_answered_row_key(answers.task, row) for row in answers.rows())
    return replace(answers, left_out=find_left_out(keys, fingerprints))


def _find_run_folder(source: Path) -> Path | None:
    """The run folder if ``source`` is one, or a table in one; else None."""
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


def _open_run(folder: Path, task: Task | None, options: ReadOptions) -> AnswerTable:
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
        left_out = left_out_from_json(manifest.get("left_out", {}))
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
        read_table(path, missing=options.missing or _get_missing_words(data)),
        renamed_columns={shown: name for name, shown in names.items()},
        left_out=left_out,
    )


def _get_missing_words(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The words for missing values of the table that a run read; None for the default."""
    words = data.get("options", {}).get("missing")
    return None if words is None else tuple(words)


def _find_task_file(folder: Path, task_source: str | None) -> Path | None:
    """The task file, at its recorded path or above the run folder; None if not found."""
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


def _open_table(source: Path, task: Task | None, options: ReadOptions) -> AnswerTable:
    table = read_table(source, options)
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


def _open_gold(answers: AnswerTable, gold: str | None, options: ReadOptions) -> AnswerTable:
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
    return _read_gold_file(answers, Path(path), column, options)


def _read_gold_file(
    answers: AnswerTable, path: Path, column: str, options: ReadOptions
) -> AnswerTable:
    table = read_table(path, options)
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
    matched = _match_ids(answers, table, id_column)
    cells = (row[truth] for row in table.rows())
    gold_by_id = {
        name: cell for name, cell in zip(matched.names, cells, strict=True) if name is not None
    }
    rows = len(matched.names)
    if rows and not gold_by_id:
        where = (
            f'the column "{answers.task.id_column}"'
            if answers.task.id_column
            else "the numbers of the rows"
        )
        raise TableError(
            f"none of the {rows:,} ids of {path} is among the answers",
            fix=f"the answers' ids are {where}",
        )
    notes = [*table.guess_notes, *(f"{path}: {note}" for note in matched.notes)]
    if unknown_ids := rows - len(gold_by_id):
        notes.append(f"{unknown_ids:,} of the {rows:,} ids of {path} are not among the answers")
    gold = GoldLocation(f'{path}, column "{truth}"', by_id=gold_by_id)
    return replace(answers, gold=gold, notes=(*answers.notes, *notes))


def _match_ids(answers: AnswerTable, table: Table, id_column: str) -> MatchedIds:
    """The answers' id of each row of another table, also where a spreadsheet has changed it."""
    known: dict[str, Mapping[str, object]] = {
        read_id(answers.task, row, number): {} for number, row in enumerate(answers.table.rows(), 1)
    }
    rows: list[tuple[str, Mapping[str, object]]] = [
        (read_key(row[id_column]) or "", {}) for row in table.rows()
    ]
    matched = match_changed_ids(rows, known)
    if None not in matched.names or len(known) > _MAX_COMPARED_ROWS:
        return matched
    shared = [name for name in table.columns if name in answers.source_columns]
    for number, row in enumerate(answers.table.rows(), 1):
        known[read_id(answers.task, row, number)] = {name: row[name] for name in shared}
    rows = [
        (name, {column: row[column] for column in shared if column != id_column})
        for (name, _), row in zip(rows, table.rows(), strict=True)
    ]
    return match_changed_ids(rows, known)


def _infer_task(answers: AnswerTable, kind: str | None) -> AnswerTable:
    """Infer the task from the cells of the table."""
    sums = [
        sum(probabilities.values())
        for row in islice(_list_probabilities(answers), _INFERENCE_ROWS)
        if (probabilities := row)
    ]
    cells = (
        (
            get_answer_cell(row),
            answers.gold.get_gold(read_id(answers.task, row, number), row)
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
    case_variants = len(task.labels) - len({fold_case(label.name) for label in task.labels})
    if case_variants:
        notes.append(
            f"{case_variants:,} of the labels differ from others in capital letters only, and "
            "count as different labels"
        )
    return replace(answers, task=replace(task, **columns), notes=(*answers.notes, *notes))


def _list_probabilities(answers: AnswerTable) -> Iterator[Mapping[str, float] | None]:
    return (
        read_probabilities(cells, "probabilities", number)
        for number, cells in enumerate(answers.table.rows(), 1)
    )


def _make_missing_column_error(what: str, column: str, table: Table) -> TableError:
    if error := table.explain_missing([column]):
        return error
    message = (
        f"{table.source} has no column {quote(column)} for the "
        f"{what}{format_suggestion(column, table.columns)}"
    )
    way = "name another" if what == "groups" else f"rename the column that holds the {what}"
    return TableError(message, fix=f"{way}: it has {format_columns(table.columns)}")
