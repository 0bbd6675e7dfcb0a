"""Presentation of an evaluation: terminal output, report, and calibration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medtask.display import capitalise_first, format_count
from medtask.errors import MedtaskError, StorageError
from medtask.evaluation.presentation.blocks import Paragraph, ReportBlock, ReportSection
from medtask.evaluation.report.annotator_report import build_annotator_blocks, list_annotator_lines
from medtask.evaluation.report.audit_report import build_audit_blocks
from medtask.evaluation.report.calibration_report import (
    build_result_blocks,
    build_risk_blocks,
    describe_result,
)
from medtask.evaluation.report.run_report import ReportAdditions, write_report
from medtask.records import Status
from medtask.runs.answer_table import AnswerTable
from medtask.runs.calibration_store import (
    CALIBRATION_FILE,
    locate_calibration_file,
    save_calibration,
)
from medtask.runs.run_evaluation import Evaluation

_ACCEPTANCE_HINT = (
    "Not computed. With gold for some hundred random rows, medtask evaluate RUN "
    "--gold COLUMN --max-error 0.05 finds the confidence from which answers may be accepted, and "
    "writes accepted.csv and review.csv."
)


def write_evaluation_report(folder: Path, evaluation: Evaluation) -> None:
    """Write report.html and report.json into the folder."""
    numbers = {
        name: part
        for name, part in evaluation.to_json().items()
        if name not in ("details", "baselines", "gold", "metrics")
    }
    sections = [*build_report_sections(evaluation), *_build_audit_sections(evaluation.answers)]
    source = _describe_answer_source(evaluation.answers)
    write_report(
        folder / "report.html",
        evaluation.summary,
        source,
        evaluation.baselines,
        ReportAdditions(sections, numbers, evaluation.notes),
    )


def build_report_sections(evaluation: Evaluation) -> list[ReportSection]:
    """The report sections that are specific to an evaluation."""
    sections = (
        [
            ReportSection(
                "Which answers may be accepted without review?",
                _build_acceptance_blocks(evaluation),
            )
        ]
        if evaluation.summary.gold
        else []
    )
    titles = {
        "calibration": "What does calibration change?",
        "prediction_sets": "Which answers remain possible?",
    }
    sections += [
        ReportSection(title, build_result_blocks(part))
        for name, title in titles.items()
        if (part := evaluation.get_part(name))
    ]
    if evaluation.annotators is not None:
        sections.append(
            ReportSection(
                "How well do annotators agree?", build_annotator_blocks(evaluation.annotators)
            )
        )
    return sections


def list_evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The same results for a terminal, one line each."""
    gold = evaluation.summary.gold
    lines = (
        [f"confidence: {describe_result(gold.reliability)}"] if gold and gold.reliability else []
    )
    for name in ("acceptance", "calibration", "prediction_sets"):
        if part := evaluation.get_part(name):
            lines.append(f"{name.replace('_', ' ')}: {describe_result(part)}")
        if name == "acceptance" and evaluation.triage:
            accepted, review = evaluation.triage
            lines.append(
                f"  accepted.csv has {format_count(accepted, 'row')}, review.csv "
                f"{format_count(review, 'row')}"
            )
    if evaluation.saved_calibration:
        lines.append(
            "Later runs of this task with this model apply the calibration; to apply it to this "
            "run, repeat its `medtask run` command: no row is asked again."
            if evaluation.answers.folder
            else "Runs apply a calibration; a table's own probabilities stay as they are."
        )
    return [*lines, *(list_annotator_lines(evaluation.annotators) if evaluation.annotators else [])]


def save_evaluation_calibration(evaluation: Evaluation, folder: Path) -> Path:
    """Write the calibration next to the task file, where `medtask run` looks for it.

    Without a task file, and for another tool's answers, it is written into ``folder``.
    """
    assert evaluation.saved_calibration is not None
    path = (
        locate_calibration_file(evaluation.answers.task) if evaluation.answers.folder else None
    ) or folder / CALIBRATION_FILE
    try:
        save_calibration(path, evaluation.saved_calibration)
    except StorageError:
        if path.parent == folder:
            raise
        path = folder / CALIBRATION_FILE
        save_calibration(path, evaluation.saved_calibration)
    return path


def _build_audit_sections(answers: AnswerTable) -> list[ReportSection]:
    """The section for the run's audit sample, if it has labels."""
    from medtask.runs.audit_sample import estimate_from_labels, read_audit_sample

    if answers.folder is None:
        return []
    try:
        sample = read_audit_sample(answers.folder / "audit")
        if sample is None or not sample.labelled_rows:
            return []
        result, notes = estimate_from_labels(answers, sample.folder)
        blocks = [
            *build_audit_blocks(result),
            *(Paragraph(f"{capitalise_first(note)}.", "note") for note in notes),
        ]
    except MedtaskError as error:
        blocks = [Paragraph(f"The audit is not shown: {error}.", "note")]
    return [ReportSection("What does the audit say about all rows?", blocks)]


def _build_acceptance_blocks(evaluation: Evaluation) -> list[ReportBlock]:
    if evaluation.acceptance:
        return [*build_result_blocks(evaluation.acceptance), *_build_triage_blocks(evaluation)]
    gold, refusal = evaluation.summary.gold, evaluation.refusals.get("acceptance")
    curve = build_risk_blocks(gold.reliability) if gold and gold.reliability else []
    return [*(build_result_blocks(refusal) if refusal else [Paragraph(_ACCEPTANCE_HINT)]), *curve]


def _build_triage_blocks(evaluation: Evaluation) -> list[ReportBlock]:
    if evaluation.triage is None:
        return []
    accepted, review = evaluation.triage
    text = (
        f"accepted.csv beside this page holds the {format_count(accepted, 'accepted answer')}, "
        f"review.csv the {format_count(review, 'other row')}, first those where a review is "
        "expected to correct most errors."
    )
    by_status = evaluation.statuses.get(Status.REVIEW, 0)
    if by_status != review:
        text += (
            f" The status of {format_count(by_status, 'row')} is review: it follows the settings "
            "of the task, and this page follows gold."
        )
    return [Paragraph(text)]


def _describe_answer_source(answers: AnswerTable) -> Mapping[str, object]:
    if answers.manifest:
        return answers.manifest
    data = {
        "source": answers.table.source,
        "columns": list(answers.table.columns),
        "notes": list(answers.table.notes),
    }
    return {"task": {"name": answers.name}, "data": data}
