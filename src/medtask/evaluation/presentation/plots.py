"""Bars, histograms and intervals as inline SVG, and several plots as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from medtask.display import format_row_count
from medtask.evaluation.presentation.svg import (
    AXIS_TICKS,
    ROW_HEIGHT,
    draw_interval_row,
    draw_line,
    draw_plot,
    draw_rect,
    draw_text,
    draw_ticks,
    join_parts,
)
from medtask.evaluation.statistics.intervals import IntArray, Metric

_PLOT_HEIGHT = 130  # height of a histogram's bars, in pixels
_PLOT_TOP = 22
_MATRIX_DEPTHS = 10  # depth-0 to depth-10 in the style sheet
_FILE_WIDTH, _FILE_MARGIN = 720, 24  # width of an SVG file, in pixels


@dataclass(frozen=True, slots=True)
class HistogramLayer:
    """One part of a stacked histogram; ``tone`` is a colour class of the style sheet."""

    name: str
    tone: str
    counts: IntArray

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def draw_bar(length: float, name: str, tone: str = "blue") -> Markup:
    """A bar of ``length`` in [0, 1], relative to its column."""
    bar = Markup(
        '<svg class="bar" role="img"><title>{}</title><rect class="{}" width="{:.2f}%" '
        'height="100%" rx="2"/></svg>'
    )
    return bar.format(name, tone, 100 * length)


def draw_stacked_bar(parts: Sequence[tuple[str, float, str]], title: str) -> Markup:
    """One bar divided into ``parts``, each (name, share of the whole, colour class)."""
    rect = Markup(
        '<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="100%"><title>{}: '
        "{:.1%}</title></rect>"
    )
    start, drawn = 0.0, []
    for name, share, tone in parts:
        drawn.append(rect.format(tone, 100 * start, 100 * share, name, share))
        start += share
    described = ", ".join(f"{name} {share:.1%}" for name, share, _ in parts)
    return Markup('<svg class="stack" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        title, described, join_parts(drawn)
    )


def draw_histogram(layers: Sequence[HistogramLayer], title: str, axis: str) -> Markup:
    """Counts over [0, 1] in equal bins, the layers stacked from the bottom."""
    bins = len(layers[0].counts)
    peak = max(1, int(np.sum([layer.counts for layer in layers], axis=0).max()))
    width, floor = 100 / bins, _PLOT_TOP + _PLOT_HEIGHT
    parts = []
    for position in range(bins):
        base = float(floor)
        for layer in layers:
            height = _PLOT_HEIGHT * int(layer.counts[position]) / peak
            base -= height
            if height:
                tooltip = (
                    f"{position / bins:.2f}-{(position + 1) / bins:.2f}: "
                    f"{layer.counts[position]:,} {layer.name}"
                )
                corner, size = (width * (position + 0.06), base), (width * 0.88, height)
                parts.append(draw_rect(layer.tone, corner, size, tooltip))
    description = "; ".join(f"{layer.total:,} {layer.name}" for layer in layers)
    return draw_plot(
        floor + 42,
        title,
        description,
        [
            *_draw_frame(floor, format_row_count(peak)),
            *parts,
            draw_ticks(floor + 17),
            draw_text(50, floor + 36, axis, anchor="middle"),
        ],
    )


def draw_intervals(rows: Sequence[tuple[str, Metric]], title: str) -> Markup:
    """A dot with whiskers for each number in [0, 1], with the name on the left and the value on the
    right.
    """
    floor = ROW_HEIGHT * len(rows) + 4
    parts = [draw_line("grid", 100 * tick, 0, 100 * tick, floor) for tick in AXIS_TICKS]
    for position, (name, metric) in enumerate(rows):
        tone = "blue" if position == 0 else "ink"
        texts = name, str(metric)
        parts += draw_interval_row(position, texts, metric, lambda value: 100 * value, tone)
    description = "; ".join(f"{name}: {metric}" for name, metric in rows)
    return draw_plot(floor + 20, title, description, [*parts, draw_ticks(floor + 16)])


def draw_throughput_bars(rates: Sequence[tuple[int, float | None]], title: str) -> Markup:
    """Rows per second by span of rows, named by its first row; None if rows took no time."""
    known = [rate for _, rate in rates if rate is not None]
    # A span of mostly repeated rows can be a thousand times faster. The scale is limited so that it
    # does not flatten the others.
    peak = min(max(known), 3 * float(np.median(known)))
    width, floor = 100 / len(rates), _PLOT_TOP + _PLOT_HEIGHT
    parts = _draw_frame(floor, f"{peak:,.1f} rows/s")
    for position, (first, rate) in enumerate(rates):
        height = _PLOT_HEIGHT * min(1.0, rate / peak) if rate is not None else 0.0
        shown = f"{rate:,.1f}" if rate is not None else "no time,"
        corner, size = (width * (position + 0.06), floor - height), (width * 0.88, height)
        parts.append(draw_rect("blue", corner, size, f"from row {first:,}: {shown} rows/s"))
    parts.append(draw_text(0, floor + 17, f"row {rates[0][0]:,}"))
    parts.append(draw_text(100, floor + 17, f"from row {rates[-1][0]:,}", anchor="end"))
    return draw_plot(floor + 22, title, "", parts)


def _draw_frame(floor: float, peak: str) -> list[Markup]:
    """The axis at ``floor``, and a line with the number at the peak."""
    return [
        draw_line("grid", 0, _PLOT_TOP, 100, _PLOT_TOP),
        draw_text(0, _PLOT_TOP - 6, peak),
        draw_line("axis", 0, floor, 100, floor),
    ]


def list_matrix_classes(share: float, tone: str) -> str:
    """The CSS classes of a cell of a confusion matrix; the colour is stronger for a larger
    ``share`` of its row.

    Classes and not a style attribute, which a strict content security policy ignores.
    """
    return f"{tone} depth-{round(share * _MATRIX_DEPTHS)}"


def combine_plots(plots: Sequence[Markup], title: str) -> str:
    """Plots one below the other, as a standalone SVG file."""
    heights = [int(picture.split(' height="', 1)[1].split('"', 1)[0]) for picture in plots]
    style = Markup(Path(__file__).with_name("plots.css").read_text("utf-8"))  # noqa: S704 - our own file
    # Percentages inside refer to the width attribute; a style attribute overrides the width of the
    # style sheet.
    inner = Markup('<svg x="{0}" y="{1}" height="{2}" width="{3}" style="width:{3}px">{4}</svg>')
    tops = [
        _FILE_MARGIN + sum(heights[:place]) + _FILE_MARGIN * place for place in range(len(heights))
    ]
    drawn = [
        inner.format(_FILE_MARGIN, *one, _FILE_WIDTH - 2 * _FILE_MARGIN, picture)
        for *one, picture in zip(tops, heights, plots, strict=True)
    ]
    height = sum(heights) + _FILE_MARGIN * (len(heights) + 1)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" '
        'style="width:{0}px;font-family:system-ui,sans-serif" role="img">'
        '<title>{2}</title><style>\n{3}</style><rect width="100%" height="100%" '
        'style="fill:var(--paper)"/>{4}</svg>\n'
    ).format(_FILE_WIDTH, height, title, style, join_parts(drawn))
