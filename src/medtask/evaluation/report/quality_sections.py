"""Report sections on the quality of the answers, compared with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medtask.display import capitalise_first, format_row_count, isolate_name
from medtask.evaluation.calibration.reliability import Reliability
from medtask.evaluation.kinds.metric_report import warn_about_few_groups
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.formatting import describe_left_out, format_p_value
from medtask.evaluation.presentation.plots import draw_intervals
from medtask.evaluation.report.gold_summary import GoldSummary
from medtask.evaluation.report.run_summary import RunSummary
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import Baseline, describe_sampling

MAX_METRIC_COLUMNS = 2  # with more metrics in one row, a table would not fit on a page

# the tolerated difference of mean confidence and accuracy, for any number of rows
CALIBRATION_MARGIN = 0.05


def build_quality_blocks(
    gold: GoldSummary | None, baselines: Sequence[Baseline]
) -> list[ReportBlock]:
    """Metrics in sentences, and a table of model and baselines; empty without usable gold."""
    if gold is None or gold.evaluation is None:
        return []
    quality = gold.evaluation
    figures = {measure: quality.metrics[measure] for measure in quality.headline_metrics}
    headline = next(measure for measure, figure in figures.items() if figure)
    name = capitalise_first(get_metric_title(headline))
    compared = [
        ("the model", figures[headline]),
        *((one.name, one.metrics.get(headline)) for one in baselines),
    ]
    reached = [(who, figure) for who, figure in compared if figure]
    measures, stack_intervals = tuple(figures), len(figures) > MAX_METRIC_COLUMNS
    head: list[tuple[str, ColumnStyle]] = [
        ("System", ""),
        *((capitalise_first(get_metric_title(measure)), "n") for measure in measures),
    ]
    lines = [
        _list_cells(
            "the model", figures, measures, stack_intervals, ("–", ""), "all rows with gold"
        )
    ]
    lines += [_list_baseline_cells(one, measures, stack_intervals) for one in baselines]
    return [
        Paragraph(
            " ".join(
                [
                    *quality.describe(),
                    *_describe_calibration(gold.reliability if quality.accuracy_answered else None),
                    *quality.describe_caveats(),
                    *warn_about_few_groups(quality.groups),
                ]
            )
        ),
        ReportPlot(
            f"{name} with 95 % intervals, the model first.",
            draw_intervals(reached, f"{name} of the model and its baselines"),
        ),
        ReportTable(
            "The model and its baselines",
            (*head, ("Rows", "n"), ("Compared with the model", "v"), ("Method", "w")),
            lines,
        ),
        Paragraph(quality.describe_methods(), "quiet small"),
        *quality.build_blocks(),
    ]


def _list_baseline_cells(
    one: Baseline, metric_keys: Sequence[str], stack_intervals: bool
) -> list[TableCell]:
    how = f"not measured: {one.note}" if one.note else one.method
    if one.sampled_from and one.headline:
        how += f"; {describe_sampling(one.headline[1].n, one.sampled_from)}"
    verdict = (
        (one.comparison.verdict, format_p_value(one.comparison.p)) if one.comparison else ("–", "")
    )
    return _list_cells(one.name, one.metrics, metric_keys, stack_intervals, verdict, how)


def _list_cells(
    who: str,
    metrics: Mapping[str, Metric | None],
    metric_keys: Sequence[str],
    stack_intervals: bool,
    verdict: tuple[str, str],
    how: str,
) -> list[TableCell]:
    """Cells of one row; with ``stack_intervals``, intervals are placed below their values."""
    known = [figure for measure in metric_keys if (figure := metrics.get(measure))]
    cells: list[TableCell] = []
    for measure in metric_keys:
        value, _, interval = str(metrics.get(measure) or "–").partition(" ")
        cells.append(
            (value, interval.strip("()")) if stack_intervals else f"{value} {interval}".strip()
        )
    return [who, *cells, f"{max(figure.n for figure in known):,}" if known else "–", verdict, how]


def _describe_calibration(reliability: Reliability | None) -> list[str]:
    """Mean confidence beside accuracy, both of the rows that have a confidence."""
    if reliability is None:
        return []
    confidence, accuracy = reliability.mean_confidence, reliability.accuracy
    if accuracy.low is None or accuracy.high is None:
        return []
    verdict = "which agrees"
    if abs(confidence - accuracy.value) > CALIBRATION_MARGIN:
        verdict = "a difference that can be chance on so few rows"
    if confidence > max(accuracy.high, accuracy.value + CALIBRATION_MARGIN):
        verdict = (
            "so it is overconfident: use its confidence to order rows, not as a probability of "
            "being right"
        )
    elif confidence < min(accuracy.low, accuracy.value - CALIBRATION_MARGIN):
        verdict = "so it is underconfident"
    rows = "these rows"
    if reliability.rows_without_confidence:
        rows = f"the {format_row_count(reliability.rows)} with a confidence"
    return [
        f"Its mean confidence on {rows} is {confidence:.2f}, and it is right in "
        f"{accuracy.value:.2f} of them, {verdict}."
    ]


def build_missing_gold_blocks(summary: RunSummary) -> list[ReportBlock]:
    """Rows without gold, with gold that is not valid, or left out of the metrics."""
    gold = summary.gold
    if gold is None:
        return []
    blocks: list[ReportBlock] = [
        Paragraph(f"{capitalise_first(sentence)}.", "note")
        for sentence in describe_left_out(gold.left_out, gold.rows)
    ]
    if gold.unknown:
        gold_form = get_evaluation_kind(summary.kind).texts.gold_form
        values = ", ".join(
            f"“{isolate_name(value)}” ({rows:,})" for value, rows in gold.unknown_values.items()
        )
        blocks.append(
            Paragraph(
                f"In {format_row_count(gold.unknown)} gold is not {gold_form}; these rows are not "
                f"used above. The most frequent of such values: {values}.",
                "note",
            )
        )
    if gold.missing:
        blocks.append(
            Paragraph(
                f"{format_row_count(gold.missing)} {'have' if gold.missing != 1 else 'has'} no "
                "gold.",
                "quiet",
            )
        )
    return blocks
