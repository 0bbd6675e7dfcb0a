"""`medtask.audit`: accuracy without gold, estimated from labels of a random sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from medtask.evaluation.presentation.formatting import format_left_out
from medtask.evaluation.statistics.audit import AuditResult
from medtask.privacy import block_network
from medtask.runs.audit_sample import (
    AuditSample,
    draw_audit_sample,
    estimate_from_labels,
    read_audit_sample,
)
from medtask.runs.evaluation import choose_folder
from medtask.runs.open_answers import open_answers
from medtask.tables.read_options import ReadOptions, ReadOptionValues
from medtask.tasks.task import Task

DEFAULT_AUDIT_ROWS = 120


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of `medtask.audit`.

    Attributes:
        folder: The folder of the sample.
        sample: The sample for manual labelling; None if labels came from another file.
        result: The estimate for all rows; None until rows of the sample are labelled.
        notes: What the user should know.
    """

    folder: Path
    sample: AuditSample | None
    result: AuditResult | None
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> None:
        """None: an audit has no page. The report of `medtask.evaluate` shows its result."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask audit --json`` prints; it contains no record text."""
        sample = self.sample
        return {
            "folder": str(self.folder),
            "sample": {
                "file": str(sample.table_path),
                "files": [str(path) for path in sample.table_paths],
                "rows": sample.rows,
                "looks": sample.drawn_rows,
                "labelled": sample.labelled_rows,
            }
            if sample
            else None,
            "audit": self.result.to_json() if self.result else None,
            "notes": list(self.notes),
        }


def audit(
    source: str | Path,
    *,
    budget: int | None = None,
    seed: int | None = None,
    labels: str | Path | None = None,
    task: Task | None = None,
    out: str | Path | None = None,
    **read: Unpack[ReadOptionValues],
) -> Audit:
    """Draw a sample for manual labelling; once it is labelled, estimate the accuracy of all rows.

    Args:
        source: A run folder, or a table with the columns id and answer.
        budget: How many rows to label, at least 30; by default 120.
        seed: Seed of the draw; by default 0.
        labels: A table with the columns id and gold; by default the filled-in sample.
        task: The task; required if it cannot be read from the run or inferred from the table.
        out: The folder of the sample; by default RUN/audit.
        read: How tables are read: fields of `ReadOptions` by name, such as ``encoding="cp1250"``.

    Returns:
        The sample, and the estimate if there are labels.

    Raises:
        UsageError: The answers cannot be labelled, or the existing sample already has labels.
        RunMismatch: The answers have changed since the sample was drawn.
        InputError: Labels are not valid, or there are too few.

    Example:
        >>> medtask.audit("runs/2026-11-20-1412").sample.table_path    # fill in its column gold
        >>> medtask.audit("runs/2026-11-20-1412").result.to_json()
    """
    read_options = ReadOptions(**read)
    with block_network():
        answers = open_answers(source, task=task, read_options=read_options)
        default = answers.folder / "audit" if answers.folder else choose_folder(answers, "audit")
        folder = Path(out) if out else default
        sample = read_audit_sample(folder)
        if labels is None and not (sample and sample.is_drawn_with(budget, seed)):
            sample = draw_audit_sample(
                answers, folder, budget=budget or DEFAULT_AUDIT_ROWS, seed=seed or 0
            )
        labelled = labels is not None or (sample is not None and sample.labelled_rows > 0)
        result, label_notes = (
            estimate_from_labels(
                answers,
                folder,
                Path(labels) if labels else None,
                read_options if answers.folder else read_options.for_further_tables(),
            )
            if labelled
            else (None, ())
        )
    column = answers.task.group_column
    notes = [*label_notes]
    if counts := answers.count_left_out():
        notes.append(f"left out of the audit: {format_left_out(counts)}")
    if column and result:
        notes.append(
            f"the intervals are about this table; for rows of other groups ({column}) they are too "
            "narrow if rows of a group are similar"
        )
    return Audit(folder, sample, result, tuple(notes))
