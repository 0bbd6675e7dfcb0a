"""The section of a run's report on its cascade."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtask.display import format_count, format_duration, format_percent
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Paragraph,
    ReportBlock,
    ReportTable,
    TableCell,
)
from medtask.evaluation.statistics.intervals import estimate_proportion


def build_cascade_blocks(manifest: Mapping[str, Any]) -> list[ReportBlock]:
    """Rows by tier, and the promised and observed difference; empty without a cascade."""
    cascade = manifest.get("cascade") or {}
    if "student_rows" not in cascade:
        return []
    decision = cascade["decision"]
    if decision["refusal"]:
        return [
            Paragraph(f"The model answered every row. No student was used: {decision['refusal']}.")
        ]
    return [
        Paragraph(_describe_promise(cascade)),
        _build_tier_table(cascade),
        Paragraph(_describe_audit(cascade)),
        _build_label_table(decision),
    ]


def _describe_promise(cascade: Mapping[str, Any]) -> str:
    decision = cascade["decision"]
    features = "terms and sentence vectors" if decision.get("uses_vectors") else "terms"
    return (
        f"A small classifier of {features}, the student, learnt the model’s answers in this run, "
        "and answers the rows in which it is confident enough. "
        f"With {100 * cascade['level']:g} % probability, at most {100 * cascade['alpha']:g} % of "
        f"all {format_count(cascade['rows'], 'row')} have another answer than the model’s. The "
        f"threshold, {decision['threshold']:.4f}, was found on {decision['tested']:,} random rows "
        f"that the student had not learnt: {decision['accepted']:,} were above it, and in "
        f"{decision['differences']:,} of these the answers differed. The confidence of a student’s "
        "answer is its own estimate of the model’s probability."
    )


def _build_tier_table(cascade: Mapping[str, Any]) -> ReportTable:
    total = cascade["student_rows"] + cascade["model_rows"]
    tiers = (("the model", cascade["model_rows"]), ("the student", cascade["student_rows"]))
    lines: list[list[TableCell]] = [
        [name, f"{rows:,}", format_percent(rows / total)] for name, rows in tiers
    ]
    head: list[tuple[str, ColumnStyle]] = [("Answered by", ""), ("Rows", "n"), ("Share", "n")]
    saved = cascade["saved_s"]
    caption = (
        f"The student took {format_duration(cascade['student_s'])}; its rows would have taken the "
        f"model {format_duration(saved + cascade['student_s'])}."
    )
    return ReportTable("Rows by tier", tuple(head), lines, caption)


def _describe_audit(cascade: Mapping[str, Any]) -> str:
    found = estimate_proportion(cascade["audit_differences"], cascade["audited"])
    total = cascade["student_rows"] + cascade["model_rows"]
    if found is None or found.low is None or found.high is None:
        return "None of the student’s rows was audited."
    share = cascade["student_rows"] / total
    low, high = (format_percent(share * bound) for bound in (found.low, found.high))
    warning = (
        " This is more than promised: answer the table again without a cascade."
        if share * found.low > cascade["alpha"]
        else ""
    )
    return (
        f"Observed: the model also answered {found.n:,} random texts that the student was to "
        f"answer, and differs in {cascade['audit_differences']:,}. That corresponds to "
        f"{format_percent(share * found.value)} of all rows ({low}-{high}).{warning}"
    )


def _build_label_table(decision: Mapping[str, Any]) -> ReportTable:
    head: list[tuple[str, ColumnStyle]] = [
        ("The model’s label", "l"),
        ("Rows", "n"),
        ("Above the threshold", "n"),
        ("Without the label there", "n"),
    ]
    lines: list[list[TableCell]] = [
        [name, *(f"{count:,}" for count in counts)]
        for name, counts in sorted(decision["by_label"].items(), key=lambda one: -one[1][0])
    ]
    caption = (
        "The promise is about all rows together. A rare label can be missed more often: compare "
        "the last two columns."
    )
    return ReportTable("Labels in the tested rows", tuple(head), lines, caption)
