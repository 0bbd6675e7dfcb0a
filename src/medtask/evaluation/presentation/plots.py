"""Small plots as inline SVG without scripts; all names are escaped by Markup.

Positions on x are percentages and there is no viewBox, so that a plot is as wide as its column, on
paper and on a phone, while its text keeps its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from medtask.evaluation.statistics.intervals import IntArray, Metric

AXIS_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
TICK_LABELS = {tick: f"{tick:g}" for tick in AXIS_TICKS}
_PLOT_HEIGHT = 130  # height of a histogram's bars, in pixels
_ROW_HEIGHT = 46  # height of one row of intervals
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
        title, described, _join(drawn)
    )


def draw_histogram(layers: Sequence[HistogramLayer], title: str, axis: str) -> Markup:
    """Counts over [0, 1] in equal bins, the layers stacked from the bottom."""
    bins = len(layers[0].counts)
    peak = max(1, int(np.sum([layer.counts for layer in layers], axis=0).max()))
    width, floor = 100 / bins, 22 + _PLOT_HEIGHT
    rect = Markup(
        '<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" '
        'height="{:.1f}"><title>{}</title></rect>'
    )
    parts = []
    for place in range(bins):
        base = float(floor)
        for layer in layers:
            height = _PLOT_HEIGHT * int(layer.counts[place]) / peak
            base -= height
            if height:
                shown = (
                    f"{place / bins:.2f}-{(place + 1) / bins:.2f}: {layer.counts[place]:,} "
                    f"{layer.name}"
                )
                parts.append(
                    rect.format(
                        layer.tone, width * (place + 0.06), base, width * 0.88, height, shown
                    )
                )
    described = "; ".join(f"{layer.total:,} {layer.name}" for layer in layers)
    return Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>'
        '<line class="grid" x1="0" x2="100%" y1="22" y2="22"/><text class="quiet" x="0" '
        'y="16">{} rows</text>{}'
        '<line class="axis" x1="0" x2="100%" y1="{}" y2="{}"/>{}<text class="quiet" x="50%" '
        'y="{}" text-anchor="middle">{}</text></svg>'
    ).format(
        floor + 42,
        title,
        described,
        f"{peak:,}",
        _join(parts),
        floor,
        floor,
        draw_ticks(floor + 17),
        floor + 36,
        axis,
    )


def draw_intervals(rows: Sequence[tuple[str, Metric]], title: str) -> Markup:
    """A dot with whiskers for each number in [0, 1], with the name on the left and the value on the
    right.
    """
    floor = _ROW_HEIGHT * len(rows) + 4
    grid = [
        Markup('<line class="grid" x1="{0:.0f}%" x2="{0:.0f}%" y1="0" y2="{1}"/>').format(
            100 * tick, floor
        )
        for tick in AXIS_TICKS
    ]
    parts = []
    for place, (name, estimate) in enumerate(rows):
        y, tone = _ROW_HEIGHT * place + 32, "blue" if place == 0 else "ink"
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(y - 14, name))
        parts.append(
            Markup('<text class="figure" x="100%" y="{}" text-anchor="end">{}</text>').format(
                y - 14, str(estimate)
            )
        )
        if estimate.low is not None and estimate.high is not None:
            ends = 100 * estimate.low, 100 * estimate.high
            parts.append(
                Markup(
                    '<line class="whisker {0}" x1="{1:.2f}%" x2="{2:.2f}%" y1="{3}" y2="{3}"/>'
                ).format(tone, *ends, y)
            )
        parts.append(
            Markup('<circle class="{}" cx="{:.2f}%" cy="{}" r="5"/>').format(
                tone, 100 * estimate.value, y
            )
        )
    described = "; ".join(f"{name}: {estimate}" for name, estimate in rows)
    return Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>{}{}{}</svg>'
    ).format(floor + 20, title, described, _join(grid), _join(parts), draw_ticks(floor + 16))


def draw_throughput_bars(rates: Sequence[tuple[int, float | None]], title: str) -> Markup:
    """Rows per second by span of rows, named by its first row; None if rows took no time."""
    known = [rate for _, rate in rates if rate is not None]
    # A span of mostly repeated rows can be a thousand times faster. The scale is limited so that it
    # does not flatten the others.
    peak = min(max(known), 3 * float(np.median(known)))
    width, floor = 100 / len(rates), 22 + _PLOT_HEIGHT
    rect = Markup(
        '<rect class="blue" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"><title>from '
        "row {}: {} rows/s</title></rect>"
    )
    parts = []
    for place, (first, rate) in enumerate(rates):
        height = _PLOT_HEIGHT * min(1.0, rate / peak) if rate is not None else 0.0
        shown = f"{rate:,.1f}" if rate is not None else "no time,"
        parts.append(
            rect.format(
                width * (place + 0.06), floor - height, width * 0.88, height, f"{first:,}", shown
            )
        )
    return Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><line class="grid" x1="0" '
        'x2="100%" y1="22" y2="22"/>'
        '<text class="quiet" x="0" y="16">{} rows/s</text>{}<line class="axis" x1="0" x2="100%" '
        'y1="{}" y2="{}"/>'
        '<text class="quiet" x="0" y="{}">row {}</text><text class="quiet" x="100%" y="{}" '
        'text-anchor="end">from row {}</text></svg>'
    ).format(
        floor + 22,
        title,
        f"{peak:,.1f}",
        _join(parts),
        floor,
        floor,
        floor + 17,
        f"{rates[0][0]:,}",
        floor + 17,
        f"{rates[-1][0]:,}",
    )


def style_matrix_cell(share: float, tone: str) -> Markup:
    """The style of a cell of a confusion matrix; the colour is stronger for a larger ``share`` of
    its row.
    """
    return Markup("--depth:{:.0f}%;--tone:var(--{})").format(15 + 60 * share, tone)


def draw_ticks(y: int, ticks: Mapping[float, str] = TICK_LABELS) -> Markup:
    """The numbers of an axis by position in [0, 1]."""
    anchors = {0.0: "start", 1.0: "end"}
    tick = Markup('<text class="quiet" x="{:.6g}%" y="{}" text-anchor="{}">{}</text>')
    return _join(
        tick.format(100 * at, y, anchors.get(at, "middle"), name) for at, name in ticks.items()
    )


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
    ).format(_FILE_WIDTH, height, title, style, _join(drawn))


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
