"""Reports reliability, calibration, acceptance and prediction sets in text and plots."""

from __future__ import annotations

from functools import singledispatch

from medtask.display import capitalise_first, format_percent, format_row_count
from medtask.evaluation.calibration.acceptance import Acceptance
from medtask.evaluation.calibration.prediction_sets import PredictionSets
from medtask.evaluation.calibration.reliability import Reliability
from medtask.evaluation.calibration.transforms import Calibration
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.curves import draw_reliability, draw_risk
from medtask.evaluation.presentation.formatting import MISSING
from medtask.evaluation.statistics.intervals import estimate_proportion
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.significance import ALPHA

_CLASS_TABLE_HEAD: tuple[tuple[str, ColumnStyle], ...] = (
    ("Answer", "l"),
    ("Threshold", "n"),
    ("Accepted", "n"),
    ("Wrong", "n"),
    ("Gold rows", "n"),
)
_SIZE_TABLE_HEAD: tuple[tuple[str, ColumnStyle], ...] = (
    ("Labels in the set", "l"),
    ("Gold rows", "n"),
    ("Share (95 %)", "n"),
)
_RELIABILITY_TABLE_HEAD: tuple[tuple[str, ColumnStyle], ...] = (
    ("Metric", "l"),
    ("Value (95 %)", "n"),
    ("How to read it", "w"),
)


@singledispatch
def describe_result(result: object) -> str:
    """Returns one or two sentences on a result of an evaluation, without the final period."""
    raise TypeError(f"no description of {type(result).__name__}")


@singledispatch
def build_result_blocks(result: object) -> list[ReportBlock]:
    """Returns the blocks for a result of an evaluation; by default, its description."""
    return [Paragraph(f"{capitalise_first(describe_result(result))}.")]


@describe_result.register
def _(refusal: Refusal) -> str:
    return f"refused: {refusal}"


@build_result_blocks.register
def _(refusal: Refusal) -> list[ReportBlock]:
    return [Paragraph(f"Refused: {refusal}.", "note")]


@describe_result.register
def _(reliability: Reliability) -> str:
    summary = (
        f"expected calibration error {reliability.ece} on {format_row_count(reliability.rows)}"
    )
    if reliability.p >= ALPHA:
        return (
            f"{summary}; a perfectly calibrated model would have {reliability.ece_by_chance:.3f} "
            "by chance: no sign of miscalibration"
        )
    return (
        f"{summary}, where chance gives {reliability.ece_by_chance:.3f}: "
        f"{_describe_direction(reliability)} (mean confidence {reliability.mean_confidence:.3f}, "
        f"accuracy {reliability.accuracy.value:.3f})"
    )


def _describe_direction(reliability: Reliability) -> str:
    """Whether a miscalibrated model is too sure on the whole, or only in parts of the range."""
    confidence, accuracy = reliability.mean_confidence, reliability.accuracy
    low = accuracy.value if accuracy.low is None else accuracy.low
    high = accuracy.value if accuracy.high is None else accuracy.high
    if low <= confidence <= high:
        return "they differ in parts of the range, but not clearly on the whole"
    return f"on the whole the model is {'over' if confidence > high else 'under'}confident"


@build_result_blocks.register
def _(reliability: Reliability) -> list[ReportBlock]:
    return build_reliability_blocks(reliability)


def build_reliability_blocks(
    reliability: Reliability, *, include_risk: bool = True
) -> list[ReportBlock]:
    """The reliability diagram, the metrics and, if ``include_risk`` is set, the error curve."""
    lines: list[list[TableCell]] = [
        [
            "Expected calibration error",
            str(reliability.ece),
            f"a perfectly calibrated model would have {reliability.ece_by_chance:.3f} by chance",
        ],
        [
            "Brier score of the confidence",
            str(reliability.brier),
            "0 is best; a constant confidence of 0.5 has 0.25",
        ],
        [
            "Log loss of the confidence",
            str(reliability.log_loss),
            "0 is best; a constant confidence of 0.5 has 0.693",
        ],
    ]
    titles = {"brier": "Brier score, all labels", "log_loss": "Log loss, all labels"}
    lines += [
        [titles.get(name, name), str(score), "0 is best"]
        for name, score in reliability.distribution_scores.items()
    ]
    lines.append(
        [
            "Area under the error curve",
            f"{reliability.risk_curve.aurc:.3f}",
            "mean error over all coverages; 0 is best",
        ]
    )
    left_out = (
        f" {format_row_count(reliability.rows_without_confidence)} with gold have no confidence "
        "and are left out."
        if reliability.rows_without_confidence
        else ""
    )
    bins = [(one.confidence, one.right) for one in reliability.bins]
    return [
        Paragraph(f"{capitalise_first(describe_result(reliability))}.{left_out}"),
        ReportPlot(
            f"Accuracy by confidence, with 95 % intervals{_describe_independence(reliability)}; "
            "the bars below count rows",
            draw_reliability(bins, "Reliability"),
        ),
        *(build_risk_blocks(reliability) if include_risk else []),
        ReportTable(
            "Metrics of the confidence",
            _RELIABILITY_TABLE_HEAD,
            lines,
            f"n = {reliability.rows:,} rows with gold and a confidence",
        ),
    ]


def _describe_independence(reliability: Reliability) -> str:
    """What a reader of intervals must know if rows have groups."""
    return " (rows of one group taken as independent)" if reliability.grouped else ""


def build_risk_blocks(reliability: Reliability) -> list[ReportBlock]:
    """The error among the most confident rows at every coverage."""
    curve = reliability.risk_curve
    return [
        ReportPlot(
            "Error among accepted rows as more rows are accepted, the most confident first; the "
            f"band is its 95 % interval{_describe_independence(reliability)}",
            draw_risk(curve.coverage, curve.error, "Risk"),
        )
    ]


@describe_result.register
def _(calibration: Calibration) -> str:
    if not calibration.calibrated:
        return f"uncalibrated: {calibration.reason}"
    before, after = calibration.before, calibration.after
    if before is None or after is None:
        return (
            f"batch calibration without gold, from {calibration.rows:,} rows: each label's "
            "probability was divided by its mean, which assumes that all labels are about equally "
            "frequent; do not use it where they are not"
        )
    temperature = f"temperature {calibration.temperature:.2f}"
    method = {"temperature": temperature, "bias": f"{temperature} and a bias for each label"}.get(
        calibration.method, "isotonic regression"
    )
    return (
        f"calibrated by {method}, fitted on {calibration.rows:,} rows; on held-out rows log loss "
        f"{before.log_loss.value:.3f} -> {after.log_loss}, calibration error {before.ece:.3f} -> "
        f"{after.ece:.3f}, accuracy {before.accuracy.value:.3f} -> {after.accuracy.value:.3f}"
        + (f"; {calibration.reason}" if calibration.reason else "")
    )


@describe_result.register
def _(acceptance: Acceptance) -> str:
    rule = (
        "that reach the threshold of their class"
        if acceptance.threshold is None
        else f"with a confidence of {_format_threshold(acceptance.threshold)} or more"
    )
    by_class = " of every class" if acceptance.class_thresholds else ""
    unit = " groups, one row of each" if acceptance.grouped else ""
    coverage = acceptance.coverage
    low, high = (100 * (bound or 0.0) for bound in (coverage.low, coverage.high))
    return (
        f"accept answers {rule}: {format_percent(coverage.value)} of the rows "
        f"({low:.1f}-{high:.1f} %, n = {acceptance.rows:,}{unit}), and at most "
        f"{100 * acceptance.max_error:g} % of the accepted{by_class} are wrong, with "
        f"{100 * acceptance.level:g} % confidence (of the gold rows {acceptance.accepted:,} are "
        f"accepted, {acceptance.errors:,} of them wrong)"
    )


@build_result_blocks.register
def _(acceptance: Acceptance) -> list[ReportBlock]:
    unit = "groups, one row drawn from each" if acceptance.grouped else "rows"
    plot = draw_risk(
        acceptance.risk_curve.coverage,
        acceptance.risk_curve.error,
        "Error and coverage",
        max_error=acceptance.max_error,
        accepted=acceptance.coverage.value,
    )
    blocks: list[ReportBlock] = [
        Paragraph(f"{capitalise_first(describe_result(acceptance))}."),
        ReportPlot(
            "Error among accepted rows as more rows are accepted; the vertical line is the "
            "coverage of the threshold",
            plot,
        ),
    ]
    if acceptance.class_thresholds:
        blocks.append(_build_class_table(acceptance))
    blocks.append(
        Paragraph(
            f"This holds for rows like the {acceptance.rows:,} gold {unit}: they must be a random "
            "sample of the rows that the threshold is applied to, labelled without regard to the "
            f"answers. Of 100 such samples about {100 * (1 - acceptance.level):g} at most give a "
            "threshold with more errors. New sources, new wording, another model or another "
            "prompt need new gold. The guarantee is about all accepted answers together; a single "
            "answer may be wrong at any confidence.",
            "caution",
        )
    )
    return blocks


def _format_threshold(threshold: float) -> str:
    """A threshold with four significant digits; one below 1 has as many as keep it below 1."""
    texts = (f"{threshold:.{digits}g}" for digits in range(4, 18))
    return next(text for text in texts if threshold >= 1 or float(text) < 1)


def _build_class_table(acceptance: Acceptance) -> ReportTable:
    ordered = sorted(
        acceptance.class_thresholds.values(),
        key=lambda rule: (-rule.accepted, -rule.rows, rule.name),
    )
    lines = [
        (
            rule.name,
            MISSING if rule.threshold is None else _format_threshold(rule.threshold),
            f"{rule.accepted:,}",
            f"{rule.errors:,}",
            f"{rule.rows:,}",
        )
        for rule in ordered
    ]
    caption = "Thresholds by class, on gold; without one, all answers of the class go to review"
    return ReportTable("Thresholds by class", _CLASS_TABLE_HEAD, lines, caption)


@describe_result.register
def _(sets: PredictionSets) -> str:
    single = (
        f"{estimate_proportion(sets.sizes[1], sets.rows)} of the rows have one label"
        if len(sets.sizes) > 1
        else "no row has a label"
    )
    unit = " groups, one row of each" if sets.grouped else ""
    missed = (
        f"a row's true labels, on average over rows that have any (n = {sets.rows_with_label:,})"
        if sets.method == "crc"
        else "the gold labels on average"
    )
    return (
        f"sets of {sets.mean_size:.2f} labels on average (n = {sets.rows:,}{unit}) miss at most "
        f"{100 * sets.miss:g} % of {missed}; {single}"
    )


@build_result_blocks.register
def _(sets: PredictionSets) -> list[ReportBlock]:
    lines = [
        (str(size), f"{rows:,}", str(estimate_proportion(rows, sets.rows)))
        for size, rows in enumerate(sets.sizes)
        if rows
    ]
    return [
        Paragraph(
            f"{capitalise_first(describe_result(sets))}. The guarantee is about all rows together, "
            "not about each class, nor about the rows with one label only."
        ),
        ReportTable(
            "Sizes of the sets",
            _SIZE_TABLE_HEAD,
            lines,
            f"Sizes of the sets of {format_row_count(sets.rows)} with gold",
        ),
    ]
