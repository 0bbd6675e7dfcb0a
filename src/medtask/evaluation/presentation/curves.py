"""Curves as inline SVG: reliability, error by coverage, and parts of other curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from medtask.display import format_row_count
from medtask.evaluation.presentation.svg import (
    AXIS_TICKS,
    TICK_LABELS,
    draw_dot,
    draw_line,
    draw_plot,
    draw_rect,
    draw_text,
    draw_ticks,
)
from medtask.evaluation.statistics.intervals import Metric

_PLOT_HEIGHT = 200  # height of the plot area, in pixels
_PLOT_TOP = 22
_STRIP_HEIGHT = 34  # height of the strip with the number of rows by bin
AXIS_Y = _PLOT_TOP + _PLOT_HEIGHT  # position of the axis


def draw_reliability(bins: Sequence[tuple[float, Metric]], title: str) -> Markup:
    """A dot per bin: mean confidence on x, share right on y; bars below show the number of rows."""
    peak = max((right.n for _, right in bins), default=1)
    base = AXIS_Y + 12 + _STRIP_HEIGHT
    diagonal = Markup(
        '<line class="axis" stroke-dasharray="5 4" x1="0" y1="{}" x2="100%" y2="{}"/>'
    ).format(AXIS_Y, _PLOT_TOP)
    parts = []
    for confidence, right in bins:
        x = 100 * confidence
        if right.low is not None and right.high is not None:
            parts.append(
                draw_line("whisker blue", x, compute_y(right.low), x, compute_y(right.high))
            )
        tooltip = f"confidence {confidence:.2f}, right {right} of {format_row_count(right.n)}"
        parts.append(draw_dot("blue", x, compute_y(right.value), tooltip))
        tall = max(1.0, _STRIP_HEIGHT * right.n / peak)
        corner = min(max(x - 2, 0), 96), base - tall
        parts.append(draw_rect("grey", corner, (4, tall), format_row_count(right.n)))
    description = "; ".join(
        f"confidence {confidence:.2f}: right {right}, {format_row_count(right.n)}"
        for confidence, right in bins
    )
    axes = Axes(title, description, "share right", "confidence", 12 + _STRIP_HEIGHT)
    return draw_axes(axes, [*draw_gridlines(1.0), diagonal, *parts], base)


def draw_risk(
    coverage: Sequence[float],
    error: Sequence[Metric],
    title: str,
    *,
    max_error: float | None = None,
    accepted: float | None = None,
) -> Markup:
    """The error among accepted rows by coverage, with its band.

    Args:
        coverage: Ascending shares of the rows.
        error: The error at each coverage.
        title: Title of the plot.
        max_error: The bound.
        accepted: The coverage at which the bound holds.
    """
    # The few rows at the left have bands up to 1, which would flatten the rest of the curve.
    reach = 1.1 * max([max_error or 0.0, *(one.value for one in error if one.n >= 20)])
    top = next((4 * step for step in (0.01, 0.02, 0.025, 0.05, 0.1, 0.2) if 4 * step >= reach), 1.0)
    parts = []
    band = Markup(
        '<rect class="grey" fill-opacity="0.35" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" '
        'height="{:.1f}"/>'
    )
    points = list(zip(coverage, error, strict=True))
    start = 0.0
    for share, one in points:
        if one.low is not None and one.high is not None:
            upper, lower = compute_y(one.high / top), compute_y(one.low / top)
            parts.append(band.format(100 * start, upper, 100 * (share - start), lower - upper))
        start = share
    parts += draw_curve([(share, one.value / top) for share, one in points], "blue")
    parts += draw_gridlines(top)  # their numbers stay readable above the curve
    if max_error is not None:
        parts.append(
            draw_line(
                "whisker orange", 0, compute_y(max_error / top), 100, compute_y(max_error / top)
            )
        )
        # right of the axis numbers, left of where the error rises
        crossed = accepted is not None and 0.17 < accepted < 0.5
        left = 100 * (accepted or 0.0) + 1.5 if crossed else 18
        promise = f"promised: at most {100 * max_error:g} %"
        parts.append(draw_text(left, compute_y(max_error / top) - 6, promise, ""))
    if accepted is not None:
        parts.append(draw_line("whisker ink", 100 * accepted, _PLOT_TOP, 100 * accepted, AXIS_Y))
    description = _describe_risk(points, max_error, accepted)
    axes = Axes(title, description, "error among the accepted", "share of rows accepted")
    return draw_axes(axes, parts)


def _describe_risk(
    points: Sequence[tuple[float, Metric]], max_error: float | None, accepted: float | None
) -> str:
    sentences = [
        f"{share:.0%} accepted: error {one}" for share, one in points[:: max(1, len(points) // 8)]
    ]
    sentences += [f"promised error {max_error:g}"] if max_error is not None else []
    return "; ".join(
        sentences + ([f"threshold at {accepted:.0%} accepted"] if accepted is not None else [])
    )


@dataclass(frozen=True, slots=True)
class Axes:
    """Titles and ticks of a plot.

    Attributes:
        title: Title of the plot.
        description: Alternative text.
        y_title: Title of the y axis.
        x_title: Title of the x axis.
        label_offset: Pixels between the axis and its numbers.
        ticks: Labels of the x axis by position in [0, 1].
    """

    title: str
    description: str
    y_title: str
    x_title: str
    label_offset: int = 0
    ticks: Mapping[float, str] = field(default_factory=lambda: TICK_LABELS)


def draw_axes(axes: Axes, parts: Iterable[Markup], base: float = AXIS_Y) -> Markup:
    """A plot with its axes; ``base`` is the lower edge of the plot area, in pixels."""
    below = AXIS_Y + axes.label_offset
    return draw_plot(
        int(base) + 42,
        axes.title,
        axes.description,
        [
            draw_text(100, 12, axes.y_title, anchor="end"),
            *parts,
            draw_line("axis", 0, AXIS_Y, 100, AXIS_Y),
            draw_ticks(below + 17, axes.ticks),
            draw_text(50, below + 36, axes.x_title, anchor="middle"),
        ],
    )


def draw_gridlines(
    maximum: float, format_level: Callable[[float], str] = lambda level: f"{100 * level:.3g} %"
) -> list[Markup]:
    """Horizontal lines at quarters of ``maximum``, with their numbers."""
    lines: list[Markup] = []
    for at in AXIS_TICKS[1:]:
        y = compute_y(at)
        lines += [draw_line("grid", 0, y, 100, y), draw_text(0, y - 4, format_level(at * maximum))]
    return lines


def draw_curve(points: Sequence[tuple[float, float]], css_class: str) -> list[Markup]:
    """Lines between points in [0, 1], or a single dot; ``css_class`` is a colour class."""
    if len(points) == 1:
        along, up = points[0]
        return [draw_dot(css_class, 100 * along, compute_y(up))]
    ends = pairwise((100 * along, compute_y(up)) for along, up in points)
    return [draw_line(f"whisker {css_class}", *left, *right) for left, right in ends]


def compute_y(fraction: float) -> float:
    """The y position of a fraction of the height, in pixels, limited to the plot."""
    return AXIS_Y - _PLOT_HEIGHT * min(1.0, max(0.0, fraction))
