"""The answers that an audit is about, as arrays: those to rows that are new to the model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluation.presentation.formatting import format_left_out, suggest_unseen_rows
from medtask.evaluation.statistics.audit_plan import AuditPlan
from medtask.records import Answer, Value, comparable_value
from medtask.runs.answer_table import AnswerTable
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class AnswerArrays:
    """The answers of the n rows that are new to the model, as arrays.

    Attributes:
        rows: The numbers of the rows in the table [n].
        classes: Class indices [n]; -1 without an answer.
        confidence: Confidences [n]; 0 without an answer, NaN if unknown.
        labels: The k label names.
        has_label: Whether an answer includes a label [n, k].
        digest: Hash that identifies the answers of all rows of the table.
    """

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float64]
    labels: tuple[str, ...]
    has_label: NDArray[np.bool_]
    digest: str

    def number_rows(self, plan: AuditPlan) -> dict[int, int]:
        """The index of each sampled row by its number in the table."""
        return {int(self.rows[index]): index for index in plan.sampled_rows.tolist()}


def collect_answer_arrays(answers: AnswerTable) -> AnswerArrays:
    """Read the answers as arrays.

    Raises UsageError for kinds that cannot be labelled blindly, and if no row is new to the model.
    """
    task = answers.task
    if task.kind_spec.generated:
        fix = (
            "have them graded: medtask judge"
            if task.kind_spec.free_text
            else "give the truth in a column: medtask evaluate --gold"
        )
        raise UsageError(
            f"answers of the kind {task.kind} cannot be compared with one label", fix=fix
        )
    labels = tuple(label.name for label in task.candidates)
    codes: dict[frozenset[str], int] = {}
    digest = hashlib.sha256()
    numbers, classes, confidence = [], [], []
    for row in answers.rows():
        answer_labels = get_answer_labels(row.answer, task)
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
        if not row.answer_counts:
            continue
        # Letters of options have another meaning in every row, so they form a single class.
        key = frozenset() if task.kind_spec.has_options else answer_labels
        numbers.append(row.row)
        classes.append(
            -1 if answer_labels is None or key is None else codes.setdefault(key, len(codes))
        )
        confidence.append(
            0.0 if answer_labels is None else np.nan if row_confidence is None else row_confidence
        )
    if not numbers and (counts := answers.count_left_out()):
        raise UsageError(
            f"no row can be audited: {format_left_out(counts)}",
            fix=suggest_unseen_rows(counts, "audit a run of other rows"),
        )
    codes_by_row = np.array(classes, dtype=np.int64)
    # The last row of the table is for class -1: rows without an answer.
    table = np.array(
        [[name in answered for name in labels] for answered in (*codes, frozenset())], dtype=bool
    ).reshape(len(codes) + 1, len(labels))
    return AnswerArrays(
        np.array(numbers, dtype=np.int64),
        codes_by_row,
        np.array(confidence, dtype=np.float64),
        labels,
        table[codes_by_row],
        digest.hexdigest(),
    )


def get_answer_labels(answer: Answer, task: Task) -> frozenset[str] | None:
    """The labels or letters of an answer; None without an answer."""
    value = comparable_value(answer.status, answer.value, task.abstain_name)
    return None if value is None else to_label_set(value)


def to_label_set(value: Value) -> frozenset[str]:
    return frozenset([value]) if isinstance(value, str) else frozenset(map(str, value))
