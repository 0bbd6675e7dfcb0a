"""Reports the result of an audit in sentences and a table."""

from __future__ import annotations

from medtask.display import format_row_count, shorten
from medtask.evaluation.presentation.blocks import ColumnStyle, Paragraph, ReportBlock, ReportTable
from medtask.evaluation.statistics.audit import AuditResult

_LABEL_TABLE_HEAD: tuple[tuple[str, ColumnStyle], ...] = (
    ("Label", "l"),
    ("Share of answers", "n"),
    ("True share (95 %)", "n"),
    ("From labelled rows alone", "n"),
)
_MAX_NAME_LENGTH = 40


def list_audit_lines(result: AuditResult) -> list[str]:
    """Lines for a terminal."""
    lines = [
        f"accuracy {result.accuracy} of all {format_row_count(result.rows)}, from "
        f"{result.looks:,} labelled rows   from these rows alone: {result.alone}"
    ]
    if result.missing:
        lines.append(
            f"{format_row_count(result.missing)} of the sample have no label and are left out: "
            "this does no harm if they are missing at random, but it does if they are the hard "
            "ones"
        )
    longest = max((len(one.label) for one in result.prevalences), default=0)
    for one in result.prevalences:
        name = shorten(one.label, _MAX_NAME_LENGTH)
        lines.append(
            f"  {name:<{min(longest, _MAX_NAME_LENGTH)}}  true share {one.estimate}   share "
            f"of answers {one.answered:.3f}   from labelled rows alone: {one.alone}"
        )
    return lines


def build_audit_blocks(result: AuditResult) -> list[ReportBlock]:
    """The section of a report."""
    blocks: list[ReportBlock] = [
        Paragraph(
            f"Accuracy {result.accuracy} over all {format_row_count(result.rows)}, estimated from "
            f"{result.looks:,} rows labelled without seeing the answers, and from all answers of "
            f"the model; the labelled rows alone give {result.alone}. It holds for this table."
        )
    ]
    if result.missing:
        blocks.append(
            Paragraph(
                f"{format_row_count(result.missing)} of the sample have no label yet and are left "
                "out.",
                "caution",
            )
        )
    if result.prevalences:
        lines = [
            (one.label, f"{one.answered:.3f}", str(one.estimate), str(one.alone))
            for one in result.prevalences
        ]
        blocks.append(
            ReportTable("Labels", _LABEL_TABLE_HEAD, lines, "True frequencies of the labels")
        )
    return blocks
