"""What reports say about an audit."""

from __future__ import annotations

from dataclasses import replace

from medtask.evaluation.presentation.blocks import Paragraph, ReportTable
from medtask.evaluation.report.audit_report import build_audit_blocks, list_audit_lines
from medtask.evaluation.statistics.audit import AuditResult, Prevalence
from medtask.evaluation.statistics.intervals import Metric

RESULT = AuditResult(
    rows=1000,
    looks=110,
    missing=10,
    accuracy=Metric(0.91, 110, 0.86, 0.95),
    alone=Metric(0.9, 110, 0.83, 0.94),
    power=0.6,
    prevalences=(
        Prevalence("curative", 0.7, Metric(0.65, 110, 0.58, 0.72), Metric(0.64, 110, 0.55, 0.73)),
        Prevalence("staging", 0.3, Metric(0.35, 110, 0.28, 0.42), Metric(0.36, 110, 0.27, 0.45)),
    ),
)


def test_lines_give_the_estimate_beside_that_of_the_labelled_rows_alone() -> None:
    accuracy, missing, *labels = list_audit_lines(RESULT)
    assert accuracy == (
        "accuracy 0.910 (0.860-0.950) of all 1,000 rows, from 110 labelled rows   from these rows "
        "alone: 0.900 (0.830-0.940)"
    )
    assert missing.startswith("10 rows of the sample have no label and are left out")
    assert "if they are the hard ones" in missing
    assert labels == [
        "  curative  true share 0.650 (0.580-0.720)   share of answers 0.700   "
        "from labelled rows alone: 0.640 (0.550-0.730)",
        "  staging   true share 0.350 (0.280-0.420)   share of answers 0.300   "
        "from labelled rows alone: 0.360 (0.270-0.450)",
    ]


def test_long_label_names_are_shortened() -> None:
    long = replace(RESULT.prevalences[0], label="x" * 60)
    line = list_audit_lines(replace(RESULT, missing=0, prevalences=(long,)))[1]
    assert len(line.split()[0]) <= 40


def test_the_section_warns_of_missing_labels_and_lists_the_label_frequencies() -> None:
    estimate, caution, table = build_audit_blocks(RESULT)
    assert isinstance(estimate, Paragraph)
    assert "0.910 (0.860-0.950) over all 1,000 rows" in estimate.body
    assert "110 rows labelled without seeing the answers" in estimate.body
    assert isinstance(caution, Paragraph)
    assert (caution.tone, caution.body.startswith("10 rows of the sample")) == ("caution", True)
    assert isinstance(table, ReportTable)
    assert list(table.lines) == [
        ("curative", "0.700", "0.650 (0.580-0.720)", "0.640 (0.550-0.730)"),
        ("staging", "0.300", "0.350 (0.280-0.420)", "0.360 (0.270-0.450)"),
    ]


def test_a_complete_sample_without_labels_is_one_paragraph() -> None:
    assert len(build_audit_blocks(replace(RESULT, missing=0, prevalences=()))) == 1
    assert len(list_audit_lines(replace(RESULT, missing=0, prevalences=()))) == 1
