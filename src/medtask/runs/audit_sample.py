"""Audit samples: rows for manual labelling, and the estimate from their labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medtask.atomic_files import replace_text
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluation.statistics.audit import AuditResult, LabelColumns, estimate_audit
from medtask.evaluation.statistics.audit_plan import plan_audit
from medtask.evaluation.statistics.refusal import Refusal
from medtask.records import Answer, Value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.runs.audit_arrays import collect_answer_arrays, get_answer_labels, to_label_set
from medtask.runs.audit_labels import (
    LABEL_COLUMN,
    NONE_COLUMN,
    is_marked,
    match_labels,
    read_labels,
)
from medtask.tables.cell_values import read_cell
from medtask.tables.read import read_table
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task

SAMPLE_FILE, PLAN_FILE = "sample.csv", "audit.json"
FORMAT = 2
_FORMAT_WITH_NONE_AS_WORD = 1  # without this column: the word "none" said that no label applies
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


def draw_audit_sample(
    answers: AnswerTable, folder: Path, *, budget: int, seed: int = 0
) -> AuditSample:
    """Write sample.csv (the drawn rows, shuffled, without answers) and audit.json (the plan).

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
    columns = _list_input_columns(answers)
    sampled = arrays.number_rows(plan)
    found = {sampled[row.row]: row for row in answers.rows() if row.row in sampled}
    filled_in = (LABEL_COLUMN, *([NONE_COLUMN] if answers.task.several else []))
    order = np.random.default_rng([seed, 2]).permutation(plan.sampled_rows).tolist()
    cells = (
        [
            found[at].answer.record_id,
            *(found[at].fields.get(name) for name in columns),
            *(None for _ in filled_in),
        ]
        for at in order
    )
    shown = [name if name not in ("id", *filled_in) else f"{name} (input)" for name in columns]
    write_answers(
        folder / SAMPLE_FILE,
        [
            Column("id", "text"),
            *map(Column, shown),
            *(Column(name, "text") for name in filled_in),
        ],
        cells,
    )
    document = {"format": FORMAT, "answers": arrays.digest, "plan": plan.to_json()}
    replace_text(folder / PLAN_FILE, json.dumps(document, indent=1) + "\n")
    return AuditSample(folder, plan.rows, len(plan.sampled_rows), 0, NONE_COLUMN in filled_in)


def read_audit_sample(folder: Path) -> AuditSample | None:
    """The sample in ``folder``; None if not found. Raises InputError if its plan is not valid."""
    if not (folder / PLAN_FILE).exists():
        return None
    plan = _read_plan(folder)["plan"]
    labelled, has_none_column = 0, False
    if (folder / SAMPLE_FILE).exists():
        table = read_table(folder / SAMPLE_FILE)
        has_none_column = NONE_COLUMN in table.columns
        labelled = sum(
            read_cell(row.get(LABEL_COLUMN)) is not None or is_marked(row.get(NONE_COLUMN))
            for row in table.rows()
        )
    return AuditSample(folder, int(plan["rows"]), len(plan["drawn"]), labelled, has_none_column)


def estimate_from_labels(
    answers: AnswerTable, folder: Path, labels: Path | None = None
) -> AuditResult:
    """Estimate the accuracy of all answers from the labels of the sample or of another file.

    Args:
        answers: The answers that the sample was drawn from.
        folder: The folder of the sample.
        labels: A table with the columns id and gold; by default the sample itself.

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
            f"{folder / PLAN_FILE} does not hold the plan of these answers",
            fix="draw a new sample into another folder with --out",
        )
    source = labels or folder / SAMPLE_FILE
    given = read_labels(source, none_is_word=document["format"] == _FORMAT_WITH_NONE_AS_WORD)
    truths, rows = match_labels(answers, arrays.number_rows(plan), given, source)
    places = np.array(sorted(truths), dtype=np.int64)
    right = np.array(
        [_is_correct(rows[at].answer, truths[at], answers.task) for at in places.tolist()],
        dtype=bool,
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
    return result


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
