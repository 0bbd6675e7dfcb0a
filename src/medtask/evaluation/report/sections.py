"""Sections of a run report: facts, statuses, histograms, passes, errors, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medtask.display import (
    format_bytes,
    format_count,
    format_duration,
    format_percent,
    format_row_count,
    format_time,
    shorten,
)
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.kinds.protocols import get_evaluation_kind
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
    find_manifest_value,
    format_metric,
    format_p_value,
)
from medtask.evaluation.presentation.plots import (
    HistogramLayer,
    draw_histogram,
    draw_stacked_bar,
    draw_throughput_bars,
)
from medtask.evaluation.report.run_summary import STATUS_NAMES, RunSummary
from medtask.records import Status

STATUS_DESCRIPTIONS = {
    Status.OK: "has an answer",
    Status.REVIEW: "has an answer, but a person should look at it",
    Status.ABSTAINED: "the model chose the task’s abstention",
    Status.EMPTY_INPUT: "the input is empty; the model was not asked",
    Status.NOT_TEXT: "the input has no words; the model was not asked",
    Status.TOO_SHORT: "fewer words than the task requires; the model was not asked",
    Status.NOVEL: "too different from the task’s examples; the model was not asked",
    Status.TOO_LONG: "more text than the model can read; nothing was cut, the model was not asked",
    Status.TRUNCATED: "a limit stopped the model before its answer was complete",
    Status.UNPARSABLE: "the answer does not have the form that the task requires",
    Status.FAILED: "the engine could not answer",
}
MAX_REASONS_SHOWN = 12
_STATUS_TONES = {Status.OK: "blue", Status.REVIEW: "orange"}
_VERDICT_LAYERS = {
    "right": ("right by gold", "blue"),
    "wrong": ("wrong by gold", "orange"),
    "unknown": ("without usable gold", "grey"),
}


def describe_run(summary: RunSummary, manifest: Mapping[str, object]) -> str:
    model = find_manifest_value(manifest, "model", "title")
    source = find_manifest_value(manifest, "data", "source")
    of_source = f" of {source}" if source else ""
    by_model = f", answered by {model}" if model else ""
    return f"{format_row_count(summary.rows)}{of_source}{by_model}."


def list_tiles(summary: RunSummary) -> list[tuple[str, str]]:
    """The headline numbers with their titles."""
    tiles = [
        (f"{summary.rows:,}", "rows"),
        (
            format_percent(summary.answered / summary.rows) if summary.rows else "–",
            "have an answer",
        ),
        (f"{summary.statuses.get(Status.REVIEW, 0):,}", "of these for review"),
    ]
    if summary.gold and summary.gold.evaluation:
        measure, first = next(
            (measure, figure)
            for measure, figure in summary.gold.evaluation.metrics.items()
            if figure
        )
        value, _, rest = format_metric(first).partition(" ")
        tiles.append((value, f"{get_metric_title(measure)} {rest}"))
    return tiles


def list_run_facts(manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """Facts of the run: model, machine, time, and whether data left the machine."""
    rows = find_manifest_value(manifest, "data", "rows")
    columns = find_manifest_value(manifest, "data", "columns")
    table = [
        find_manifest_value(manifest, "data", "source"),
        format_row_count(rows) if isinstance(rows, int) else None,
        _describe_columns(columns) if isinstance(columns, Sequence) else None,
    ]
    cores = find_manifest_value(manifest, "hardware", "cores")
    memory = find_manifest_value(manifest, "hardware", "memory_bytes")
    machine = [
        find_manifest_value(manifest, "hardware", "processor"),
        f"{cores} cores" if cores else None,
        format_bytes(memory) if isinstance(memory, int) else None,
        find_manifest_value(manifest, "hardware", "accelerator_name"),
    ]
    facts = [
        ("Task", find_manifest_value(manifest, "task", "name")),
        (
            "Model",
            find_manifest_value(manifest, "model", "title")
            or find_manifest_value(manifest, "model", "name"),
        ),
        ("Table", "; ".join(str(part) for part in table if part)),
        (
            "Patients' texts",
            find_manifest_value(manifest, "task", "question", "phi")
            and "Yes, as the task states (phi: true). Protect this page like the table.",
        ),
        ("Started", format_time(manifest.get("created"))),
        ("Finished", format_time(manifest.get("finished"))),
        ("Machine", ", ".join(str(part) for part in machine if part)),
        (
            "Left the machine",
            _describe_egress(
                *(
                    find_manifest_value(manifest, "egress", fact)
                    for fact in ("connections_attempted", "sent_to")
                )
            ),
        ),
        ("Asked again in other batches", describe_flips(manifest)),
    ]
    return [(term, shorten(str(fact), 600)) for term, fact in facts if fact]


def describe_flips(manifest: Mapping[str, object]) -> str:
    """How many answers changed when rows were asked again; "" if none were."""
    found = manifest.get("flip_check")
    if not isinstance(found, Mapping):
        return ""
    return (
        f"{found['flips']:,} of {format_row_count(found['rows'])} changed the answer or status (at "
        f"most {format_percent(found['high'])} of all rows, with 95 % confidence); the largest "
        f"difference of a confidence is {found['largest_confidence_difference']:.1g}"
    )


def _describe_columns(columns: Sequence[object]) -> str:
    """Column names, with the probability columns of labels replaced by their number."""
    names = [str(name) for name in columns]
    shown = [name for name in names if not name.startswith("p:")]
    several = len(names) - len(shown) > 1
    return f"columns {', '.join(shown if several else names)}" + (
        f" and {len(names) - len(shown):,} of probabilities" if several else ""
    )


def _describe_egress(attempts: object, sent_to: object) -> str:
    if not isinstance(attempts, int):
        return "Not recorded."
    servers = " and ".join(str(url) for url in sent_to) if isinstance(sent_to, Mapping) else ""
    tried = (
        f"{format_count(attempts, 'connection')} to other machines "
        f"{'was' if attempts == 1 else 'were'} tried and refused while records were read"
    )
    if servers:
        return f"The text of every row that was asked was sent to {servers}, as permitted. " + (
            f"In addition, {tried}."
            if attempts
            else "Connections to any other machine were blocked, and none was tried."
        )
    if attempts == 0:
        return (
            "Nothing. Connections to other machines were blocked while records were read, and "
            "none was tried."
        )
    return f"Nothing, but {tried}."


def draw_status_bar(summary: RunSummary) -> Markup:
    """One bar, divided by status."""
    parts = [
        (STATUS_NAMES[status], n / summary.rows, _STATUS_TONES.get(status, "grey"))
        for status, n in summary.statuses.items()
    ]
    return draw_stacked_bar(parts, "Rows by status")


def build_status_blocks(summary: RunSummary) -> list[ReportBlock]:
    """Rows by status, and the reasons of the rows that are not ok."""
    statuses = [
        (
            STATUS_NAMES[status],
            f"{n:,}",
            format_percent(n / summary.rows),
            STATUS_DESCRIPTIONS[status],
        )
        for status, n in summary.statuses.items()
    ]
    head: tuple[tuple[str, ColumnStyle], ...] = (
        *(("Status", ""), ("Rows", "n"), ("Share", "n"), ("What it means", "w")),
    )
    blocks: list[ReportBlock] = [ReportTable("Rows by status", head, statuses)]
    if not summary.causes:
        return blocks
    reasons = [
        (
            STATUS_NAMES[cause.status],
            f"{cause.count:,}",
            shorten(cause.example or "—", 300),
            ", ".join(f"{row:,}" for row in cause.first_rows)
            + " …" * (cause.count > len(cause.first_rows)),
        )
        for cause in summary.causes
    ]
    caption = (
        f"The {MAX_REASONS_SHOWN} most frequent of {len(summary.causes)} reasons; the table of "
        "answers has all of them."
    )
    head = (*(("Status", ""), ("Rows", "n"), ("First reason", "w"), ("First rows", "v")),)
    table = ReportTable("Reasons", head, reasons, caption).cut(MAX_REASONS_SHOWN)
    return [*blocks, Heading("Reasons"), table]


def draw_confidence_histograms(summary: RunSummary) -> dict[str, Any]:
    """Histograms of confidence and off-set mass; None without values.

    ``missing`` is the number of answers that are not in the histogram of confidences.
    """
    shown = sum(int(bins.sum()) for bins in summary.confidence_bins.values())
    layers = [
        HistogramLayer(*_VERDICT_LAYERS[verdict], bins)
        for verdict, bins in summary.confidence_bins.items()
        if bins.any()
    ]
    if summary.gold is None:
        layers = [HistogramLayer("rows", "blue", layer.counts) for layer in layers]
    off_set = [HistogramLayer("rows", "blue", summary.off_set_bins)]
    return {
        "layers": layers,
        "missing": summary.answered - shown,
        "confidence": draw_histogram(layers, "Rows by confidence", "confidence")
        if layers
        else None,
        "off_set": draw_histogram(off_set, "Rows by off-set mass", "off-set mass")
        if summary.off_set_bins.any()
        else None,
    }


def build_throughput_blocks(summary: RunSummary) -> list[ReportBlock]:
    """Speed along the table; empty with fewer than four spans of rows."""
    if len(summary.pace) < 4:
        return []
    rates = [(span.first, span.rows_per_s) for span in summary.pace]
    return [
        ReportPlot(
            "Rows per second along the table. Rows that repeat earlier ones take no time.",
            draw_throughput_bars(rates, "Throughput"),
        )
    ]


def build_pass_blocks(summary: RunSummary) -> list[ReportBlock]:
    """What each further pass changed; empty without further passes."""
    if not summary.passes:
        return []
    graded = any(one.before_after for one in summary.passes)
    head: list[tuple[str, ColumnStyle]] = [
        ("Pass", ""),
        ("Asked", "n"),
        ("Changed", "n"),
        ("Gained", "n"),
        ("Lost", "n"),
    ]
    head += [("Right before", "n"), ("Right after", "n"), ("Difference", "v")] if graded else []
    lines: list[list[TableCell]] = []
    for one in summary.passes:
        cells: list[TableCell] = [
            one.name,
            f"{one.asked:,}",
            f"{one.changed:,}",
            f"{one.gained:,}",
            f"{one.lost:,}",
        ]
        if graded and one.before_after and one.p is not None:
            (_, corrected), (spoilt, right) = one.before_after
            cells += [(f"{n:,}", f"of {one.graded:,}") for n in (spoilt + right, corrected + right)]
            cells.append((f"{corrected:,} corrected, {spoilt:,} spoiled", format_p_value(one.p)))
        elif graded:
            cells += ["–"] * 3
        lines.append(cells)
    note = (
        "Each further pass asks again about the rows that its condition selects. Changed: from one "
        "answer to another. Gained: there was no answer, and there is one. Lost: the reverse."
    )
    more = (
        " Right: of the rows with gold. Corrected rows were wrong and are right, spoiled rows "
        "the reverse; p is McNemar’s exact test, or, with groups, a randomisation of whole groups."
    )
    return [Paragraph(note + more * graded), ReportTable("What passes changed", tuple(head), lines)]


def describe_errors(summary: RunSummary) -> tuple[str, str]:
    """Title and introduction of the section on answers that contradict gold."""
    texts = get_evaluation_kind(summary.kind).texts.errors
    shown = len(summary.gold.errors) if summary.gold else 0
    introduction = (
        f"The {shown} {texts.which}. Either the model is wrong, or {texts.explanation}, or gold "
        f"is wrong. {texts.colours}"
    )
    return texts.title, introduction.strip()


def describe_doubtful_rows(summary: RunSummary) -> str:
    """The introduction of the section on rows that need review."""
    n, shown = summary.doubtful_rows, len(summary.doubtful)
    texts = get_evaluation_kind(summary.kind).texts
    subset = f"; these are the {shown} with the lowest confidence" if n > shown else ""
    sentence = f"{format_row_count(n)} {'need' if n != 1 else 'needs'} a person{subset}."
    if not texts.bars:
        return sentence
    tones = (
        f"; where gold is known, {texts.gold_mark} blue and a wrong answer orange"
        if summary.gold
        else ""
    )
    return f"{sentence} {texts.bars}{tones}."


def list_costs(summary: RunSummary, manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """Time, speed and tokens; if the manifest has no time, the sum of the rows' times is used."""
    measured = find_manifest_value(manifest, "timing", "seconds")
    seconds = (
        measured if isinstance(measured, int | float) and measured > 0 else summary.total_ms / 1000
    )
    given = find_manifest_value(manifest, "timing", "rows_per_s")
    speed = given if isinstance(given, int | float) else summary.rows / seconds if seconds else 0.0
    cached = find_manifest_value(manifest, "cache", "rows")
    costs = [("Time", format_duration(seconds))] if seconds else []
    if seconds and (given or not cached):
        costs.append(("Speed", f"{speed:,.1f} rows/s"))
    if isinstance(cached, int) and cached:
        costs.append(
            ("From the cache", f"{cached:,} of {summary.rows:,} rows, asked in earlier runs")
        )
    tokens = summary.tokens_read + summary.tokens_reused
    if summary.rows and tokens:
        share = format_percent(summary.tokens_reused / tokens)
        costs += [
            (
                "Tokens read",
                f"{summary.tokens_read:,} ({summary.tokens_read / summary.rows:,.1f} a row)",
            ),
            (
                "Tokens reused",
                f"{summary.tokens_reused:,} ({share} of all): read once for many rows",
            ),
        ]
    return costs or [("Time", "not measured")]
