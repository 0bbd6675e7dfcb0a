"""Tables and charts of labels, shared by the kinds that have labels or letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medtask.display import capitalise_first, format_percent, isolate_name
from medtask.evaluation.kinds.protocols import PartMetric
from medtask.evaluation.presentation.blocks import (
    BarChart,
    BarRow,
    ColumnStyle,
    ConfusionTable,
    ConfusionTableRow,
    Heading,
    Paragraph,
    ReportBlock,
    ReportTable,
)
from medtask.evaluation.presentation.formatting import format_metric_cell
from medtask.evaluation.presentation.plots import list_matrix_classes
from medtask.evaluation.statistics.classification import PerClassMetrics
from medtask.evaluation.statistics.intervals import IntArray

# Maximum number of labels in a table, so that 2,000 labels do not make the page unreadable
MAX_LABELS_SHOWN = 40

MIN_GOLD_ROWS = 10  # gold rows of a label; with fewer, its F1 is mostly chance


def sort_by_frequency(counts: Mapping[str, int]) -> dict[str, int]:
    """Sort by frequency, descending; ties are in alphabetical order."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def list_label_metrics(labels: Sequence[PerClassMetrics]) -> dict[str, PartMetric]:
    """The gold rows and F1 of each label that gold has."""
    return {one.label: (one.gold, one.f1) for one in labels if one.gold}


def build_label_bars(
    rows_by_label: Mapping[str, int], answered: int, labels: Sequence[str]
) -> list[ReportBlock]:
    """A bar for each label, the most frequent first, and the labels without rows."""
    ranked = sort_by_frequency(rows_by_label)
    peak = max(ranked.values(), default=1)
    lines = [
        BarRow(name, n / peak, (f"{n:,}", format_percent(n / answered)))
        for name, n in ranked.items()
    ]
    blocks: list[ReportBlock] = [
        BarChart(("Label", "Rows", "Share"), tuple(lines[:MAX_LABELS_SHOWN]))
    ]
    if len(lines) > MAX_LABELS_SHOWN:
        others = sum(list(ranked.values())[MAX_LABELS_SHOWN:])
        blocks.append(
            Paragraph(
                f"The {MAX_LABELS_SHOWN} most frequent labels; {len(lines) - MAX_LABELS_SHOWN:,} "
                f"more share {others:,} rows.",
                "quiet",
            )
        )
    unused = [name for name in labels if not rows_by_label.get(name)]
    if unused:
        listed = (
            f" ({', '.join(map(isolate_name, unused))})" if len(unused) <= MAX_LABELS_SHOWN else ""
        )
        blocks.append(
            Paragraph(f"Never given: {len(unused):,} of {len(labels):,} labels{listed}.", "quiet")
        )
    return blocks


def warn_about_rare_labels(labels: Sequence[PerClassMetrics], class_count: int) -> list[str]:
    never = class_count - sum(one.gold > 0 for one in labels)
    few = sum(0 < one.gold < MIN_GOLD_ROWS for one in labels)
    if not never and not few:
        return []
    scarce = [
        f"{count:,} {'is' if count == 1 else 'are'} {where}"
        for count, where in (
            (never, "never gold"),
            (few, f"gold in fewer than {MIN_GOLD_ROWS} rows"),
        )
        if count
    ]
    those = "it" if never + few == 1 else "these"
    return [
        f"Of {class_count:,} possible answers, {' and '.join(scarce)}: macro-F1 is unreliable for "
        f"{those}."
    ]


def build_confusion_table(counts: IntArray, classes: Sequence[str]) -> list[ReportBlock]:
    """The confusion matrix of the most frequent labels; the others share one column."""
    used = counts.sum(axis=1) + counts[:, :-1].sum(axis=0)
    ranked = np.argsort(-used, kind="stable")[: np.count_nonzero(used)]
    kept, others = np.sort(ranked[:MAX_LABELS_SHOWN]), ranked[MAX_LABELS_SHOWN:]
    lines = []
    for place, truth in enumerate(kept.tolist()):
        row = counts[truth]
        shown = [
            *row[kept].tolist(),
            *([int(row[others].sum())] if len(others) else []),
            int(row[-1]),
        ]
        total = max(1, sum(shown))
        tones = ["blue" if column == place else "orange" for column in range(len(shown) - 1)] + [
            "grey"
        ]
        cells = tuple(
            (rows, list_matrix_classes(rows / total, tone))
            for rows, tone in zip(shown, tones, strict=True)
        )
        lines.append(ConfusionTableRow(classes[truth], cells))
    only = f"; the {MAX_LABELS_SHOWN} most frequent labels only" if len(others) else ""
    note = f"Rows: gold. Columns: answers, by the same numbers{only}."
    return [
        Heading("Gold by answer"),
        Paragraph(note, "quiet small"),
        ConfusionTable(tuple(lines), len(others)),
    ]


def build_label_table(labels: Sequence[PerClassMetrics], noun: str = "label") -> list[ReportBlock]:
    """Precision, recall and F1 by label, sorted by gold rows."""
    ranked = sorted(labels, key=lambda one: -one.gold)
    lines = [
        (
            one.label,
            f"{one.gold:,}",
            f"{one.answered:,}",
            *map(format_metric_cell, (one.precision, one.recall, one.f1)),
        )
        for one in ranked
    ]
    caption = (
        f"The {MAX_LABELS_SHOWN} {noun}s with most gold rows; report.json has all {len(ranked):,}."
    )
    figures = ("In gold", "Answered", "Precision", "Recall", "F1")
    head: list[tuple[str, ColumnStyle]] = [
        (capitalise_first(noun), "l"),
        *((title, "n") for title in figures),
    ]
    bars = tuple(
        BarRow(one.label, one.f1.value, (f"{one.f1.value:.3f}", one.f1.interval_text))
        for one in ranked[:MAX_LABELS_SHOWN]
        if one.f1
    )
    return [
        Heading(f"{capitalise_first(noun)} by {noun}"),
        *([BarChart((capitalise_first(noun), "F1", "95 %"), bars)] if bars else []),
        ReportTable(f"Quality by {noun}", tuple(head), lines, caption).cut(MAX_LABELS_SHOWN),
    ]
