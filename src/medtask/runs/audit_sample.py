"""Audit samples: rows for manual labelling, and the estimate from their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medtask.atomic_files import replace_text
from medtask.display import format_list, format_path
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluation.statistics.audit import AuditResult, LabelColumns, estimate_audit
from medtask.evaluation.statistics.audit_plan import AuditPlan, plan_audit
from medtask.evaluation.statistics.refusal import Refusal
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.records import AnsweredRow
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
    match_labels,
    read_labels,
)
from medtask.runs.written_tables import count_written_rows
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
_NEW_SAMPLE_FIX = "draw a new sample into another folder with --out"


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A sample of ``drawn_rows`` of ``rows`` rows; ``labelled_rows`` of them have a label.

    ``has_none_column``: whether a column is for marks that no label applies. It was drawn with
    ``budget`` and ``seed``.
    """

    folder: Path
    rows: int
    drawn_rows: int
    labelled_rows: int
    has_none_column: bool
    budget: int
    seed: int

    def is_drawn_with(self, budget: int | None, seed: int | None) -> bool:
        """Whether a draw with this budget and seed (None for any) is this sample."""
        return budget in (None, self.budget) and seed in (None, self.seed)

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
    sample = _build_sample(answers, _collect_rows(answers, arrays, plan), plan)
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
            byte_order_mark=True,
        )
    document = {"format": FORMAT, "answers": arrays.digest, "plan": plan.to_json()}
    replace_text(folder / PLAN_FILE, json.dumps(document, indent=1) + "\n")
    has_none_column = NONE_COLUMN in filled_in
    return AuditSample(
        folder, plan.rows, len(plan.sampled_rows), 0, has_none_column, plan.budget, plan.seed
    )


def _list_label_columns(task: Task) -> tuple[str, ...]:
    return (LABEL_COLUMN, *([NONE_COLUMN] if task.several else []))


def _name_shown_columns(answers: AnswerTable) -> dict[str, str]:
    """The names in the sample of the input columns that the annotator is shown."""
    taken = ("id", *_list_label_columns(answers.task))
    return {
        name: f"{name} (input)" if name in taken else name for name in _list_input_columns(answers)
    }


def _collect_rows(
    answers: AnswerTable, arrays: AnswerArrays, plan: AuditPlan
) -> dict[int, AnsweredRow]:
    """The drawn rows by their index in the plan."""
    indices = arrays.number_rows(plan)
    return {indices[row.row]: row for row in answers.rows() if row.row in indices}


def _build_sample(
    answers: AnswerTable, rows: Mapping[int, AnsweredRow], plan: AuditPlan
) -> dict[str, SampledRow]:
    """The drawn rows by id, in the random order of the file."""
    shown = _name_shown_columns(answers)
    order = np.random.default_rng([plan.seed, 2]).permutation(plan.sampled_rows).tolist()
    return {
        rows[index].answer.record_id: SampledRow(
            index,
            rows[index].fields,
            {title: rows[index].fields.get(name) for name, title in shown.items()},
        )
        for index in order
    }


def read_audit_sample(folder: Path) -> AuditSample | None:
    """The sample in ``folder``; None if not found. Raises InputError if its plan is not valid."""
    if not (folder / PLAN_FILE).exists():
        return None
    plan = _read_plan(folder).plan
    file = _choose_sample_file(folder)
    columns = read_table(file).columns if file else ()
    return AuditSample(
        folder,
        plan.rows,
        len(plan.drawn),
        count_written_rows(file, LABEL_COLUMN) if file else 0,
        NONE_COLUMN in columns,
        plan.budget,
        plan.seed,
    )


def _choose_sample_file(folder: Path) -> Path | None:
    """The file of the sample that has labels; without labels, any; None without a file.

    Raises InputError if several files have labels: it is not known which are current.
    """
    files = [folder / name for name in SAMPLE_FILES if (folder / name).exists()]
    labelled = [file for file in files if count_written_rows(file, LABEL_COLUMN)]
    if len(labelled) > 1:
        raise InputError(
            f"{format_list([str(file) for file in labelled])} both have labels",
            fix="delete the one that is not current, or name the other with --labels",
        )
    return next(iter(labelled or files), None)


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
    plan = _restore_plan(answers, arrays, document, folder)
    source = labels or _choose_sample_file(folder) or folder / SAMPLE_FILE
    given = read_labels(source, options, none_is_word=document.format == _FORMAT_WITH_NONE_AS_WORD)
    rows = _collect_rows(answers, arrays, plan)
    sample = _build_sample(answers, rows, plan)
    truths, notes = match_labels(answers, sample, given, source)
    places = sorted(truths)
    label_sets = [to_label_set(truths[place]) for place in places]
    answered = [get_answer_labels(rows[place].answer, answers.task) for place in places]
    has = np.array([[name in names for name in arrays.labels] for names in label_sets], dtype=bool)
    result = estimate_audit(
        plan,
        np.array(places, dtype=np.int64),
        np.array([given == truth for given, truth in zip(answered, label_sets, strict=True)], bool),
        arrays.confidence,
        LabelColumns(arrays.labels, has.reshape(len(places), len(arrays.labels)), arrays.has_label),
    )
    if isinstance(result, Refusal):
        wanted = f", at least {result.needed:,} must" if result.needed else ""
        raise InputError(
            f"{result.reason} ({result.rows:,} of {len(plan.sampled_rows):,} have one{wanted})",
            fix=f"fill in more of {source}",
        )
    return result, notes


def _restore_plan(
    answers: AnswerTable, arrays: AnswerArrays, document: _SampleFile, folder: Path
) -> AuditPlan:
    """The plan of a sample, made again from the answers.

    Raises RunMismatch or InputError if it is not the plan that the sample was drawn by.
    """
    if document.answers != arrays.digest:
        raise RunMismatch(
            f"the answers of {answers.name} have changed since the sample in {folder} was drawn",
            fix="audit the run as it was (calibrated since? repeat its `medtask run` with "
            "--uncalibrated), or draw a new one with --out DIR",
        )
    drawn = document.plan
    plan = plan_audit(arrays.classes, arrays.confidence, drawn.budget, drawn.seed)
    if plan.sampled_rows.tolist() != drawn.drawn:
        raise InputError(
            f"{folder / PLAN_FILE} is not the plan of these answers", fix=_NEW_SAMPLE_FIX
        )
    return plan


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


class _DrawnPlan(JsonContent):
    rows: int = Field(ge=0)
    budget: int = Field(ge=0)
    seed: int = Field(ge=0)
    drawn: list[int]


class _SampleFile(JsonContent):
    format: Literal[1, 2]
    answers: str
    plan: _DrawnPlan


def _read_plan(folder: Path) -> _SampleFile:
    path = folder / PLAN_FILE
    try:
        return load_checked(path, _SampleFile)
    except FileNotFoundError:
        raise UsageError(
            f"no sample was drawn into {folder}", fix="draw one: medtask audit RUN --budget 120"
        ) from None
    except InvalidJsonFile as error:
        raise InputError(
            f"{format_path(path)} cannot be read: {error}", fix=_NEW_SAMPLE_FIX
        ) from None
