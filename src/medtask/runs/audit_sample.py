"""Audit samples: rows for manual labelling, and the estimate from their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medtask.atomic_files import replace_text
from medtask.display import format_list
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluation.statistics.audit import AuditResult, LabelColumns, estimate_audit
from medtask.evaluation.statistics.audit_plan import AuditPlan, plan_audit
from medtask.evaluation.statistics.refusal import Refusal
from medtask.records import Answer, Value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.runs.audit_arrays import (
    AnswerArrays,
    collect_answer_arrays,
    get_answer_labels,
    to_label_set,
)
from medtask.runs.audit_labels import (
    LABEL_COLUMN,
    NONE_COLUMN,
    SampledRow,
    is_marked,
    match_labels,
    read_labels,
)
from medtask.tables.cell_values import read_cell
from medtask.tables.read import read_table
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task

SAMPLE_FILE, PLAN_FILE = "sample.csv", "audit.json"
SAMPLE_FILES = (SAMPLE_FILE, "sample.xlsx")  # in a workbook ids are text
FORMAT = 2
_FORMAT_WITH_NONE_AS_WORD = 1  # without this column: the word "none" meant that no label applies
_FORMATS = (_FORMAT_WITH_NONE_AS_WORD, FORMAT)


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A sample of ``drawn_rows`` of ``rows`` rows; ``labelled_rows`` of them have a label.

    ``has_none_column``: whether a column is for marks that no label applies.
    """

    folder: Path
    rows: int
    drawn_rows: int
    labelled_rows: int
    has_none_column: bool = False

    @property
    def table_path(self) -> Path:
        return self.folder / SAMPLE_FILE

    @property
    def table_paths(self) -> tuple[Path, ...]:
        """The files of the sample, in several formats; one of them is filled in."""
        return tuple(path for name in SAMPLE_FILES if (path := self.folder / name).exists())


def draw_audit_sample(
    answers: AnswerTable, folder: Path, *, budget: int, seed: int = 0
) -> AuditSample:
    """Write sample.csv and sample.xlsx (the drawn rows, shuffled, without answers) and audit.json.

    Raises UsageError if the existing sample has labels: they are never overwritten.
    """
    before = read_audit_sample(folder)
    if before and before.labelled_rows:
        fix = "leave --budget and --seed out to use its labels, or name another folder with --out"
        raise UsageError(
            f"{before.table_path} has {before.labelled_rows:,} labels already", fix=fix
        )
    arrays = collect_answer_arrays(answers)
    plan = plan_audit(arrays.classes, arrays.confidence, budget, seed)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    filled_in = _list_label_columns(answers.task)
    sample = _collect_sample(answers, arrays, plan, seed)
    columns = [
        Column("id", "text"),
        *map(Column, _name_shown_columns(answers).values()),
        *(Column(name, "text") for name in filled_in),
    ]
    for name in SAMPLE_FILES:
        write_answers(
            folder / name,
            columns,
            (
                [record_id, *sampled.cells.values(), *(None for _ in filled_in)]
                for record_id, sampled in sample.items()
            ),
        )
    document = {"format": FORMAT, "answers": arrays.digest, "plan": plan.to_json()}
    replace_text(folder / PLAN_FILE, json.dumps(document, indent=1) + "\n")
    return AuditSample(folder, plan.rows, len(plan.sampled_rows), 0, NONE_COLUMN in filled_in)


def _list_label_columns(task: Task) -> tuple[str, ...]:
    return (LABEL_COLUMN, *([NONE_COLUMN] if task.several else []))


def _name_shown_columns(answers: AnswerTable) -> dict[str, str]:
    """The names in the sample of the input columns that the annotator is shown."""
    taken = ("id", *_list_label_columns(answers.task))
    return {
        name: f"{name} (input)" if name in taken else name for name in _list_input_columns(answers)
    }


def _collect_sample(
    answers: AnswerTable, arrays: AnswerArrays, plan: AuditPlan, seed: int
) -> dict[str, SampledRow]:
    """The drawn rows by id, in the random order of the file."""
    shown = _name_shown_columns(answers)
    indices = arrays.number_rows(plan)
    found = {indices[row.row]: row for row in answers.rows() if row.row in indices}
    order = np.random.default_rng([seed, 2]).permutation(plan.sampled_rows).tolist()
    return {
        found[index].answer.record_id: SampledRow(
            index,
            found[index].fields,
            {title: found[index].fields.get(name) for name, title in shown.items()},
        )
        for index in order
    }


def read_audit_sample(folder: Path) -> AuditSample | None:
    """The sample in ``folder``; None if not found. Raises InputError if its plan is not valid."""
    if not (folder / PLAN_FILE).exists():
        return None
    plan = _read_plan(folder)["plan"]
    file = _choose_sample_file(folder)
    columns = read_table(file).columns if file else ()
    return AuditSample(
        folder,
        int(plan["rows"]),
        len(plan["drawn"]),
        _count_labels(file) if file else 0,
        NONE_COLUMN in columns,
    )


def _choose_sample_file(folder: Path) -> Path | None:
    """The file of the sample that has labels; without labels, any; None without a file.

    Raises InputError if several files have labels: it is not known which are current.
    """
    files = [folder / name for name in SAMPLE_FILES if (folder / name).exists()]
    labelled = [file for file in files if _count_labels(file)]
    if len(labelled) > 1:
        raise InputError(
            f"{format_list([str(file) for file in labelled])} both have labels",
            fix="delete the one that is not current, or name the other with --labels",
        )
    return next(iter(labelled or files), None)


def _count_labels(file: Path) -> int:
    return sum(
        read_cell(row.get(LABEL_COLUMN)) is not None or is_marked(row.get(NONE_COLUMN))
        for row in read_table(file).rows()
    )


def estimate_from_labels(
    answers: AnswerTable,
    folder: Path,
    labels: Path | None = None,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> tuple[AuditResult, tuple[str, ...]]:
    """Estimate the accuracy of all answers from the labels of the sample or of another file.

    Args:
        answers: The answers that the sample was drawn from.
        folder: The folder of the sample.
        labels: A table with the columns id and gold; by default the sample itself.
        options: How the labels are read.

    Returns:
        The estimate, and notes about the labels.

    Raises:
        RunMismatch: The answers are not those that the sample was drawn from.
        InputError: Labels are not valid (their rows are named), or there are too few.
    """
    document, arrays = _read_plan(folder), collect_answer_arrays(answers)
    plan_document = document["plan"]
    if document["answers"] != arrays.digest:
        fix = (
            "audit the run as it was (calibrated since? repeat its `medtask run` with "
            "--uncalibrated), or draw a new one with --out DIR"
        )
        raise RunMismatch(
            f"the answers of {answers.name} have changed since the sample in {folder} was drawn",
            fix=fix,
        )
    plan = plan_audit(
        arrays.classes, arrays.confidence, int(plan_document["budget"]), int(plan_document["seed"])
    )
    if plan.sampled_rows.tolist() != plan_document["drawn"]:
        raise InputError(
            f"{folder / PLAN_FILE} is not the plan of these answers",
            fix="draw a new sample into another folder with --out",
        )
    source = labels or _choose_sample_file(folder) or folder / SAMPLE_FILE
    given = read_labels(
        source, options, none_is_word=document["format"] == _FORMAT_WITH_NONE_AS_WORD
    )
    sample = _collect_sample(answers, arrays, plan, int(plan_document["seed"]))
    truths, notes = match_labels(answers, sample, given, source)
    rows = _fetch_answers(answers, arrays.number_rows(plan))
    places = np.array(sorted(truths), dtype=np.int64)
    right = np.array(
        [_is_correct(rows[at], truths[at], answers.task) for at in places.tolist()], dtype=bool
    )
    has = np.array(
        [[name in to_label_set(truths[at]) for name in arrays.labels] for at in places.tolist()],
        dtype=bool,
    )
    shaped = has.reshape(len(places), len(arrays.labels))
    result = estimate_audit(
        plan,
        places,
        right,
        arrays.confidence,
        LabelColumns(arrays.labels, shaped, arrays.has_label),
    )
    if isinstance(result, Refusal):
        wanted = f", at least {result.needed:,} must" if result.needed else ""
        raise InputError(
            f"{result.reason} ({result.rows:,} of {len(plan.sampled_rows):,} have one{wanted})",
            fix=f"fill in more of {source}",
        )
    return result, notes


def _fetch_answers(answers: AnswerTable, indices: Mapping[int, int]) -> dict[int, Answer]:
    return {indices[row.row]: row.answer for row in answers.rows() if row.row in indices}


def _is_correct(answer: Answer, truth: Value, task: Task) -> bool:
    return get_answer_labels(answer, task) == to_label_set(truth)


def _list_input_columns(answers: AnswerTable) -> list[str]:
    """The columns to show the annotator: those of the prompt, or all but gold if it is unknown."""
    task = answers.task
    seen = find_prompt_columns(task) if task.input else frozenset()
    names = list(answers.source_columns.values())
    hidden = {
        task.id_column,
        task.group_column,
        task.gold_column,
        answers.gold.column if answers.gold else None,
        *GOLD_COLUMN_NAMES,
    }
    hidden = {answers.renamed_columns.get(name, name) for name in hidden if name}
    return (
        [name for name in names if name in seen]
        if seen
        else [name for name in names if name not in hidden]
    )


def _read_plan(folder: Path) -> dict[str, Any]:
    path = folder / PLAN_FILE
    if not path.exists():
        raise UsageError(
            f"no sample was drawn into {folder}", fix="draw one: medtask audit RUN --budget 120"
        )
    found: object = None
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    plan = (
        found.get("plan") if isinstance(found, dict) and found.get("format") in _FORMATS else None
    )
    numbers = (
        [plan.get(name) for name in ("rows", "budget", "seed")]
        if isinstance(plan, dict)
        else [None]
    )
    if (
        not isinstance(found, dict)
        or not isinstance(plan, dict)
        or not isinstance(plan.get("drawn"), list)
        or not _are_counts(numbers)
    ):
        raise InputError(
            f"{path} cannot be read", fix="draw a new sample into another folder with --out"
        )
    return found


def _are_counts(numbers: Sequence[object]) -> bool:
    return all(isinstance(number, int) and number >= 0 for number in numbers)
