"""Runs with a cascade: its decision and its result are kept in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from medtask.display import format_count, format_duration, format_percent
from medtask.prediction.cascade import LEVEL, Cascade
from medtask.prediction.cascade_report import (
    CascadeDecision,
    CascadeReport,
    decision_from_json,
)
from medtask.records import Answer, Record
from medtask.runs.calibration_store import SavedCalibration, calibrate_answer
from medtask.runs.manifest import FIRST_DIGEST, write_manifest
from medtask.runs.session import Session


@dataclass(frozen=True, slots=True)
class RepeatableRecords:
    """The records of a table, which can be read several times."""

    read: Callable[[], Iterator[Record]]

    def __iter__(self) -> Iterator[Record]:
        return self.read()


def answer_with_cascade(
    session: Session,
    read_records: Callable[[], Iterator[Record]],
    alpha: float,
    saved_calibration: SavedCalibration | None,
) -> dict[str, Any]:
    """Answer the rows of a session by the model and its student.

    The decision is in the manifest before the student answers a row, so that a killed run follows
    it.

    Returns:
        The manifest's entry.
    """
    task = session.request.task

    def finish_answer(answer: Answer) -> Answer:
        if saved_calibration is None:
            return answer
        return calibrate_answer(task, answer, saved_calibration.calibration)

    def save_decision(decision: CascadeDecision) -> None:
        session.ledger.flush()
        entry = {"alpha": alpha, "level": LEVEL, "decision": asdict(decision)}
        session.manifest["cascade"] = entry
        write_manifest(session.folder, session.manifest)

    earlier: dict[str, Any] = session.manifest.get("cascade", {})
    # The random order of the rows stays that of the start if only gold has changed since.
    digest = session.manifest["data"].get(FIRST_DIGEST, session.request.data_digest)
    cascade = Cascade(
        alpha,
        int(digest[:8], 16),
        session.request.rows,
        finish_answer,
        save_decision,
        decision_from_json(earlier["decision"]) if earlier else None,
    )
    session.answer(RepeatableRecords(read_records), cascade.answer_rows)
    assert cascade.report is not None  # set after the last row
    session.manifest["cascade"] = cascade.report.to_json()
    session.add_note(describe_cascade(cascade.report))
    return cascade.report.to_json()


def describe_cascade(report: CascadeReport) -> str:
    """The result of a cascade in one line."""
    if report.decision.refusal:
        return f"no row is answered by a student: {report.decision.refusal}"
    total = report.student_rows + report.model_rows
    audit = (
        f"in an audit of {report.audited:,} of its texts, {report.audit_differences:,} differ"
        if report.audited
        else "no row of it was audited"
    )
    saved = (
        f"about {format_duration(report.saved_s)} saved"
        if report.saved_s > 0
        else "no time was saved"
    )
    return (
        f"a student answers {format_count(report.student_rows, 'row')} and the model "
        f"{report.model_rows:,} ({format_percent(report.model_rows / total)}); with "
        f"{100 * report.level:g} % probability at most {100 * report.alpha:g} % of all rows differ "
        f"from the model's answers; {audit}; {saved}"
    )
