"""Audit samples: rows for manual labelling, and the estimate from their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.atomic_files import replace_text
from medtask.display import format_columns, quote
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluation.statistics.audit import AuditResult, LabelColumns, estimate_audit
from medtask.evaluation.statistics.audit_plan import AuditPlan, plan_audit
from medtask.evaluation.statistics.refusal import Refusal
from medtask.records import Answer, Value, comparable_value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnsweredRow, AnswerTable
from medtask.tables.cell_values import read_cell
from medtask.tables.read import read_table
from medtask.tables.table import Column
from medtask.tables.write import unescape_formula, write_answers
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Task

SAMPLE_FILE, PLAN_FILE = "sample.csv", "audit.json"
LABEL_COLUMN = "gold"  # the column that a person fills in
FORMAT = 1
NO_LABEL = "none"  # entered by the annotator if no label applies
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True, eq=False)
class AnswerArrays:
    """The answers of all n rows as arrays.

    Attributes:
        classes: Class indices [n]; -1 without an answer.
        confidence: Confidences [n]; 0 without an answer, NaN if unknown.
        labels: The k label names.
        has_label: Whether an answer includes a label [n, k].
        digest: Hash that identifies these answers.
    """

    classes: NDArray[np.int64]
    confidence: NDArray[np.float64]
    labels: tuple[str, ...]
    has_label: NDArray[np.bool_]
    digest: str


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A sample of ``drawn_rows`` of ``rows`` rows; ``labelled_rows`` of them have a label."""

    folder: Path
    rows: int
    drawn_rows: int
    labelled_rows: int

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
    places = frozenset(plan.sampled_rows.tolist())
    found = {row.row - 1: row for row in answers.rows() if row.row - 1 in places}
    order = np.random.default_rng([seed, 2]).permutation(plan.sampled_rows).tolist()
    cells = (
        [found[at].answer.record_id, *(found[at].fields.get(name) for name in columns), None]
        for at in order
    )
    shown = [name if name not in ("id", LABEL_COLUMN) else f"{name} (input)" for name in columns]
    write_answers(
        folder / SAMPLE_FILE,
        [Column("id", "text"), *map(Column, shown), Column(LABEL_COLUMN, "text")],
        cells,
    )
    document = {"format": FORMAT, "answers": arrays.digest, "plan": plan.to_json()}
    replace_text(folder / PLAN_FILE, json.dumps(document, indent=1) + "\n")
    return AuditSample(folder, plan.rows, len(plan.sampled_rows), 0)


def read_audit_sample(folder: Path) -> AuditSample | None:
    """The sample in ``folder``; None if not found. Raises InputError if its plan is not valid."""
    if not (folder / PLAN_FILE).exists():
        return None
    plan = _read_plan(folder)["plan"]
    labelled = 0
    if (folder / SAMPLE_FILE).exists():
        table = read_table(folder / SAMPLE_FILE)
        labelled = sum(read_cell(row.get(LABEL_COLUMN)) is not None for row in table.rows())
    return AuditSample(folder, int(plan["rows"]), len(plan["drawn"]), labelled)


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
    given = _read_labels(source)
    truths, rows = _match_labels(answers, plan, given, source)
    places = np.array(sorted(truths), dtype=np.int64)
    right = np.array(
        [_is_correct(rows[at].answer, truths[at], answers.task) for at in places.tolist()],
        dtype=bool,
    )
    has = np.array(
        [[name in _to_label_set(truths[at]) for name in arrays.labels] for at in places.tolist()],
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


def collect_answer_arrays(answers: AnswerTable) -> AnswerArrays:
    """Read the answers as arrays. Raises UsageError for kinds that cannot be labelled blindly."""
    task = answers.task
    if task.kind_spec.generated:
        fix = (
            "have them graded: medtask judge"
            if task.kind_spec.free_text
            else "give the truth in a column: medtask evaluate --gold"
        )
        raise UsageError(
            f"answers of the kind {task.kind} cannot be held against one label", fix=fix
        )
    labels = tuple(label.name for label in task.candidates)
    codes: dict[frozenset[str], int] = {}
    digest = hashlib.sha256()
    classes, confidence = [], []
    for row in answers.rows():
        answer_labels = _get_answer_labels(row.answer, task)
        row_confidence = row.answer.confidence
        # Rounded to six digits, so that values rounded in a file give the same digest.
        facts = [
            row.answer.record_id,
            row.answer.status,
            None if answer_labels is None else sorted(answer_labels),
            None if row_confidence is None else round(row_confidence, 6),
        ]
        digest.update(
            json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        )
        # Letters of options have another meaning in every row, so they form a single class.
        key = frozenset() if task.kind_spec.has_options else answer_labels
        classes.append(
            -1 if answer_labels is None or key is None else codes.setdefault(key, len(codes))
        )
        confidence.append(
            0.0 if answer_labels is None else np.nan if row_confidence is None else row_confidence
        )
    numbers = np.array(classes, dtype=np.int64)
    # The last row of the table is for class -1: rows without an answer.
    table = np.array(
        [[name in said for name in labels] for said in (*codes, frozenset())], dtype=bool
    ).reshape(len(codes) + 1, len(labels))
    return AnswerArrays(
        numbers, np.array(confidence, dtype=np.float64), labels, table[numbers], digest.hexdigest()
    )


def _get_answer_labels(answer: Answer, task: Task) -> frozenset[str] | None:
    """The labels or letters of an answer; None without an answer."""
    value = comparable_value(answer.status, answer.value, task.abstain_name)
    return None if value is None else _to_label_set(value)


def _to_label_set(value: Value) -> frozenset[str]:
    return frozenset([value]) if isinstance(value, str) else frozenset(map(str, value))


def _is_correct(answer: Answer, truth: Value, task: Task) -> bool:
    return _get_answer_labels(answer, task) == _to_label_set(truth)


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
    plan = found.get("plan") if isinstance(found, dict) and found.get("format") == FORMAT else None
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


def _read_labels(path: Path) -> dict[str, tuple[int, object]]:
    """Row number and cell by id, for non-blank cells. Raises InputError if columns are missing."""
    table = read_table(path)
    names = [name for name in GOLD_COLUMN_NAMES if name in table.columns]
    if "id" not in table.columns or not names:
        fix = f"it has {format_columns(table.columns)}"
        raise InputError(f"{path} needs the columns id and {LABEL_COLUMN}", fix=fix)
    found: dict[str, tuple[int, object]] = {}
    for number, row in enumerate(table.rows(), 1):
        name, cell = read_cell(row["id"]), row[names[0]]
        if name is None or read_cell(cell) is None:
            continue
        if name in found:
            raise InputError(
                f"{path} labels the id of row {found[name][0]:,} again in row {number:,}",
                fix="leave one of the two rows out",
            )
        found[name] = number, cell
    return found


def _match_labels(
    answers: AnswerTable,
    plan: AuditPlan,
    labels_by_id: Mapping[str, tuple[int, object]],
    source: Path,
) -> tuple[dict[int, Value], dict[int, AnsweredRow]]:
    """Gold values and rows by row position. Raises InputError for unknown ids and labels."""
    drawn = frozenset(plan.sampled_rows.tolist())
    rows = {row.row - 1: row for row in answers.rows() if row.row - 1 in drawn}
    place = {row.answer.record_id: at for at, row in rows.items()}
    truths: dict[int, Value] = {}
    unknown_ids, unknown_labels = [], []
    for name, (number, cell) in labels_by_id.items():
        at = place.get(name, place.get(unescape_formula(name)))
        if at is None:
            unknown_ids.append(number)
            continue
        truth = _read_truth(answers.task, rows[at].fields, cell)
        if truth is None:
            unknown_labels.append(number)
        else:
            truths[at] = truth
    if unknown_ids:
        fix = "label the rows of the sample, and no others"
        raise InputError(
            f"{source} has ids that are not in the sample: {_format_rows(unknown_ids)}", fix=fix
        )
    if unknown_labels:
        raise InputError(
            f"{source} has labels that the task does not know: {_format_rows(unknown_labels)}",
            fix=_format_choices(answers.task),
        )
    return truths, rows


def _read_truth(task: Task, fields: Mapping[str, object], cell: object) -> Value | None:
    """A cell as a gold value of the task; None if it is not valid."""
    if task.several and str(cell).strip().casefold() == NO_LABEL:
        return ()
    truth = read_gold(task, fields, unescape_formula(cell) if isinstance(cell, str) else cell)
    return None if truth is None or find_invalid_gold(task, fields, truth) else truth


def _format_rows(numbers: Sequence[int]) -> str:
    """``rows 2, 5 and 9``; the header is not counted."""
    shown = ", ".join(f"{number:,}" for number in sorted(numbers)[:_MAX_LISTED])
    return f"row{'s' * (len(numbers) != 1)} {shown}" + (
        f" and {len(numbers) - _MAX_LISTED:,} more" if len(numbers) > _MAX_LISTED else ""
    )


def _format_choices(task: Task) -> str:
    if task.kind_spec.has_options:
        return "write the letter of one of the row's own options"
    names: Iterable[str] = (label.name for label in task.candidates)
    several = (
        f'; several with ";" between them, "{NO_LABEL}" where none applies' if task.several else ""
    )
    return f"write one of {', '.join(map(quote, names))}{several}"
