"""Reports the agreement of annotators in sentences, tables and plots."""

from __future__ import annotations

from medtask.display import capitalise_first, format_row_count, shorten
from medtask.evaluation.comparison.annotators import (
    MAX_DISAGREEMENTS,
    AnnotatorAgreement,
    PairwiseAgreement,
)
from medtask.evaluation.kinds.label_blocks import MAX_LABELS_SHOWN
from medtask.evaluation.kinds.metric_report import warn_about_few_groups
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Heading,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.formatting import (
    format_difference,
    format_metric_cell,
    format_p_value,
)
from medtask.evaluation.presentation.plots import draw_intervals
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import ALPHA


def list_annotator_lines(agreement: AnnotatorAgreement) -> list[str]:
    """Sentences on the agreement, for a terminal."""
    first, second = agreement.names
    title = agreement.method.title
    with_model = " and ".join(
        f"{_format_short(one.share)} with {one.other}" for one in agreement.model_agreements
    )
    inter_annotator = agreement.inter_annotator
    lines = [
        f"The {title} of {first} and {second} is {_format_short(inter_annotator.share)}, "
        f"n = {inter_annotator.rows:,}; the model reaches {with_model}.",
        _describe_kappa(inter_annotator),
    ]
    lines += [
        _describe_difference(name, second if name == first else first, difference, p)
        for name, (difference, p) in agreement.model_differences.items()
    ]
    if agreement.consensus:
        lines.append(
            f"Where both agree ({format_row_count(agreement.consensus.rows)}), the model reaches "
            f"{_format_short(agreement.consensus.share)}."
        )
    if agreement.single_annotated:
        verb = "are" if agreement.single_annotated != 1 else "is"
        lines.append(
            f"{format_row_count(agreement.single_annotated)} with one annotator only {verb} left "
            "out."
        )
    return [*lines, *warn_about_few_groups(agreement.n_groups)]


def build_annotator_blocks(agreement: AnnotatorAgreement) -> list[ReportBlock]:
    """The section of a report."""
    title = capitalise_first(agreement.method.title)
    compared = [agreement.inter_annotator, *agreement.model_agreements]
    compared += [agreement.consensus] if agreement.consensus else []
    with_exact = any(one.exact for one in compared)
    head: list[tuple[str, ColumnStyle]] = [("Pair", "l"), (title, "n")]
    head += [("Equal sets", "n")] if with_exact else []
    head += [("Kappa", "n"), ("Rows", "n")]
    points = [
        (f"{shorten(one.one, 40)} and {shorten(one.other, 40)}", one.share) for one in compared
    ]
    blocks: list[ReportBlock] = [
        Paragraph(" ".join(list_annotator_lines(agreement))),
        ReportPlot(
            f"{title} with 95 % intervals; the first is the agreement of the annotators, which is "
            "what a person reaches.",
            draw_intervals(points, f"{title} of annotators and model"),
        ),
        ReportTable(
            "Annotators and model", tuple(head), [_build_cells(one, with_exact) for one in compared]
        ),
    ]
    if agreement.inter_annotator.labels:
        blocks += _build_label_blocks(agreement.inter_annotator)
    if agreement.disagreements:
        blocks += _build_disagreement_blocks(agreement)
    return blocks


def _format_short(value: Metric) -> str:
    """The value and its interval, rounded to two decimals."""
    if value.low is None or value.high is None:
        return f"{value.value:.2f}"
    to = " to " if value.low < 0 else "-"
    return f"{value.value:.2f} ({value.low:.2f}{to}{value.high:.2f})"


def _describe_kappa(agreement: PairwiseAgreement) -> str:
    if agreement.kappa:
        return f"Their kappa, agreement beyond chance, is {_format_short(agreement.kappa)}."
    if agreement.labels:
        known = [kappa.value for kappa in agreement.labels.values() if kappa]
        exact = (
            f"Their sets are equal in {_format_short(agreement.exact)}" if agreement.exact else ""
        )
        kappas = f"; kappa by label is {min(known):.2f} to {max(known):.2f}" if known else ""
        return f"{exact}{kappas}."
    if agreement.note:
        return f"{capitalise_first(agreement.note)}."
    return "Kappa is not defined for this kind of answer."


def _describe_difference(annotator: str, other: str, difference: Metric, p: float) -> str:
    result = f"by {format_difference(difference)}, {format_p_value(p)}"
    if p >= ALPHA:
        return (
            f"With {annotator} as gold, the model and {other} show no clear difference ({result})."
        )
    comparison = "better" if difference.value > 0 else "worse"
    return f"With {annotator} as gold, the model is {comparison} than {other}, {result}."


def _build_cells(agreement: PairwiseAgreement, with_exact: bool) -> list[TableCell]:
    cells: list[TableCell] = [
        f"{agreement.one} and {agreement.other}",
        format_metric_cell(agreement.share),
    ]
    cells += [format_metric_cell(agreement.exact)] if with_exact else []
    return [*cells, format_metric_cell(agreement.kappa), f"{agreement.rows:,}"]


def _build_label_blocks(agreement: PairwiseAgreement) -> list[ReportBlock]:
    lines = [(name, format_metric_cell(kappa)) for name, kappa in agreement.labels.items()]
    caption = f"The first {MAX_LABELS_SHOWN} of {len(lines):,} labels."
    return [
        Heading("Kappa of the annotators by label"),
        ReportTable("Kappa by label", (("Label", "l"), ("Kappa", "n")), lines, caption).cut(
            MAX_LABELS_SHOWN
        ),
    ]


def _build_disagreement_blocks(agreement: AnnotatorAgreement) -> list[ReportBlock]:
    head: tuple[tuple[str, ColumnStyle], ...] = (
        ("Row", "v"),
        *((shorten(name, 30), "l") for name in (*agreement.names, "The model")),
        ("Text", "w"),
    )
    lines: list[list[TableCell]] = [
        [f"{one.row:,} {one.record_id}".strip(), one.first, one.second, one.model, one.text]
        for one in agreement.disagreements
    ]
    subset = (
        f"; the first {MAX_DISAGREEMENTS}" if agreement.n_disagreements > MAX_DISAGREEMENTS else ""
    )
    return [
        Heading("Where the annotators disagree"),
        Paragraph(
            f"{format_row_count(agreement.n_disagreements)}{subset}. A third person should decide "
            "these before they are used as gold.",
            "quiet",
        ),
        ReportTable("Disagreements", head, lines),
    ]
