"""Opening the answers of a run or of another tool's table, with gold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.display import format_columns, format_suggestion, quote
from medtask.errors import InputError, UsageError
from medtask.runs.answer_cells import get_answer_cell, read_id, read_probabilities
from medtask.runs.answer_table import AnswerTable, GoldLocation
from medtask.runs.gold_file import make_missing_column_error, read_gold_file
from medtask.runs.gold_table import LEFT_OUT_BY_SELECTION, SELECTION_COLUMN, find_chosen_rows
from medtask.runs.manifest import MANIFEST_FILE, read_manifest
from medtask.runs.measured_rows import (
    extend_to_groups,
    find_left_out,
    fingerprint_task_rows,
    left_out_from_json,
    make_answered_row_key,
)
from medtask.runs.output_columns import rename_columns
from medtask.runs.task_inference import (
    collect_statistics,
    describe_inferred_task,
    infer_task,
)
from medtask.tables.cell_values import read_cell
from medtask.tables.read import read_table, validate_table
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.serialization import task_from_dict
from medtask.tasks.task import Task

TEXT_COLUMN_NAMES = ("text", "input", "question")
# Where gold is read from says which rows were chosen by their answers.
_CHOSEN = frozenset(LEFT_OUT_BY_SELECTION.values())
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
    if kind is not None and (folder or task):
        _check_kind(kind, answers)
    if group is not None:
        if group not in answers.table.columns:
            raise make_missing_column_error("groups", group, answers.table)
        answers = replace(answers, task=replace(answers.task, group_column=group))
    counts = validate_table(answers.table, answers.task.id_column)
    notes = (
        *answers.notes,
        *answers.table.guess_notes,
        *(() if folder else counts.describe_suspects()),
        *answers.list_ledger_notes(),
    )
    answers = replace(answers, notes=notes)
    answers = _open_gold(
        answers, gold, read_options if folder else read_options.for_further_tables()
    )
    if folder:
        return _find_forms(_leave_out_groups(answers))
    if task is None:
        return _find_forms(_infer_task(answers, kind))
    return _find_forms(_leave_out_task_rows(replace(answers, external=True)))


def _check_kind(kind: str, answers: AnswerTable) -> None:
    """Raise UsageError if a run or a task says that the answers are of another kind."""
    if kind != answers.task.kind:
        raise UsageError(
            f"--kind {kind} is for tables without a task, and the answers of {answers.name} are "
            f"of the kind {answers.task.kind}",
            fix="leave out --kind",
        )


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
    recorded = answers.manifest["task"]["question"]["columns"].get("group")
    if not answers.left_out or column is None or column == answers.find_column_name(recorded or ""):
        return answers
    groups = (read_cell(cells.get(column)) for cells in answers.table.rows())
    return replace(answers, left_out=extend_to_groups(answers.left_out, groups))


def _leave_out_task_rows(answers: AnswerTable) -> AnswerTable:
    """Leave out the rows that are examples of the task, or that chose its words."""
    fingerprints = fingerprint_task_rows(answers.task) if answers.task.input else []
    if not fingerprints:
        return answers
    keys = (make_answered_row_key(answers.task, row) for row in answers.rows())
    return replace(answers, left_out=find_left_out(keys, fingerprints))


def _find_run_folder(source: Path) -> Path | None:
    """The run folder if ``source`` is one, or a table in one; else None."""
    if (source / MANIFEST_FILE).exists():
        return source
    if source.name.startswith("answers.") and (source.parent / MANIFEST_FILE).exists():
        return source.parent
    if (source / "ledger.db").exists():
        raise InputError(
            f"{source} is a run folder without its {MANIFEST_FILE}",
            fix="name one of its tables, such as answers.csv: it is read as a table of any tool",
        )
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
        state = manifest.get("state", "not finished")
        if state == "finished":
            raise InputError(
                f"{folder} is a finished run whose table answers.parquet was removed",
                fix="run its command again: it writes the tables anew, and asks for no row",
            )
        fix = "run its command again, until it has finished"
        raise InputError(f"{folder} has no answers yet: the run is {state}", fix=fix)
    try:
        facts, data, settings = manifest["task"], manifest["data"], manifest["settings"]
        task = task or task_from_dict(
            facts["name"], facts["question"], fingerprint=facts["fingerprint"]
        )
        left_out = left_out_from_json(manifest.get("left_out", {}), _CHOSEN)
    except (LookupError, TypeError, ValueError) as error:
        fix = "name the task file with --task"
        raise InputError(
            f"the manifest of {folder} does not describe what was asked", fix=fix
        ) from error
    names = rename_columns(task, data["columns"])
    task = replace(task, source=task.source or _find_task_file(folder, facts.get("source")))
    gold = settings.get("gold_column") or task.gold_column
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
        raise make_missing_column_error("answers", "answer", table)
    name = task.id_column if task and task.id_column in columns else "id"
    if name not in columns:
        raise make_missing_column_error("ids", "id", table)
    template = next((f"{{{{ {name} }}}}" for name in TEXT_COLUMN_NAMES if name in columns), "")
    answers = task or Task(source.stem, "", template)
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


def _open_gold(answers: AnswerTable, gold: str | None, options: ReadOptions) -> AnswerTable:
    columns = answers.table.columns
    name = answers.task.gold_column if gold is None else answers.find_column_name(gold)
    if name and name in columns:
        location = GoldLocation(f'column "{gold or name}"', name)
        chosen = find_chosen_rows(answers.table.rows()) if SELECTION_COLUMN in columns else {}
        return replace(answers, gold=location, left_out={**chosen, **answers.left_out})
    if gold is None:
        return answers
    path, _, column = gold.partition("#")
    if not Path(path).is_file():
        fix = f"name a column ({format_columns(columns)}), or a file with the columns id and gold"
        raise UsageError(
            f"{quote(gold)} is not a column of {answers.table.source} or a "
            f"file{format_suggestion(gold, columns)}",
            fix=fix,
        )
    return read_gold_file(answers, Path(path), column, options)


def _infer_task(answers: AnswerTable, kind: str | None) -> AnswerTable:
    """Infer the task from the cells of the table."""
    known = (
        read_probabilities(cells, "probabilities", number)
        for number, cells in islice(enumerate(answers.table.rows(), 1), _INFERENCE_ROWS)
    )
    probabilities = [shares for shares in known if shares]
    cells = (
        (
            get_answer_cell(row),
            answers.gold.get_gold(read_id(answers.task, row, number), row)
            if answers.gold
            else None,
        )
        for number, row in enumerate(answers.table.rows(), 1)
    )
    names = dict.fromkeys(name for shares in probabilities for name in shares)
    sum_to_one = bool(probabilities) and all(
        abs(sum(shares.values()) - 1) < 0.02 for shares in probabilities
    )
    statistics = collect_statistics(cells)
    task = infer_task(answers.task.name, *statistics, names, sum_to_one, kind)
    columns: dict[str, Any] = {
        name: getattr(answers.task, name)
        for name in ("input", "id_column", "gold_column", "group_column")
    }
    notes = describe_inferred_task(task, *statistics, is_inferred_kind=kind is None)
    return replace(answers, task=replace(task, **columns), notes=(*answers.notes, *notes))
