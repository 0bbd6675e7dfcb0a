"""Plots of a comparison: quality by speed, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

from markupsafe import Markup

from medtask.evaluation.statistics.intervals import Metric

_PLOT_HEIGHT = 220  # height of the plot area, in pixels
_PLOT_TOP = 26
_ROW_HEIGHT = 46
_PLOT_LEFT, _PLOT_RIGHT = 8.0, 96.0  # left and right edge of the plot area, in percent


def draw_scatter(
    points: Sequence[tuple[int, str, float, Metric]], title: str, metric_name: str
) -> Markup:
    """Quality in [0, 1] with intervals, by speed. Each point is (number, name, rows/s, quality)."""
    speeds = [log10(speed) for _, _, speed, _ in points]
    low, high = floor(min(speeds)), max(ceil(max(speeds)), floor(min(speeds)) + 1)
    bottom, top = _round_axis_limits([estimate for *_, estimate in points])
    base = _PLOT_TOP + _PLOT_HEIGHT

    def to_x(speed: float) -> float:
        return _PLOT_LEFT + (_PLOT_RIGHT - _PLOT_LEFT) * (log10(speed) - low) / (high - low)

    def to_y(value: float) -> float:
        return base - _PLOT_HEIGHT * (value - bottom) / (top - bottom)

    parts = [_draw_text(0, 12, f"{metric_name}, by rows per second", "quiet")]
    step = 1 if top - bottom < 0.55 else 2
    for tick in range(round(10 * bottom), round(10 * top) + 1, step):
        value = tick / 10
        parts.append(
            Markup('<line class="grid" x1="{}%" x2="100%" y1="{:.1f}" y2="{:.1f}"/>').format(
                _PLOT_LEFT, to_y(value), to_y(value)
            )
        )
        parts.append(_draw_text(0, to_y(value) + 4, f"{value:.1f}", "quiet"))
    for power in range(low, high + 1):
        x = to_x(10.0**power)
        parts.append(
            Markup('<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
                x, _PLOT_TOP, base
            )
        )
        anchor = "end" if power == high else "middle"
        parts.append(_draw_text(x, base + 17, f"{10.0**power:,.10g}", "quiet", anchor))
    for number, name, speed, estimate in points:
        x, tone = to_x(speed), "blue" if number == 1 else "ink"
        if estimate.low is not None and estimate.high is not None:
            whisker = Markup(
                '<line class="whisker {0}" x1="{1:.2f}%" x2="{1:.2f}%" y1="{2:.1f}" y2="{3:.1f}"/>'
            )
            parts.append(whisker.format(tone, x, to_y(estimate.low), to_y(estimate.high)))
        dot = Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="5"><title>{}</title></circle>')
        parts.append(
            dot.format(tone, x, to_y(estimate.value), f"{name}: {estimate}, {speed:,.1f} rows/s")
        )
        parts.append(
            Markup('<text x="{:.2f}%" dx="9" y="{:.1f}">{}</text>').format(
                x, to_y(estimate.value) - 4, number
            )
        )
    described = "; ".join(
        f"{name}: {estimate} at {speed:,.1f} rows/s" for _, name, speed, estimate in points
    )
    return _wrap_svg(base + 26, title, described, parts)


def draw_differences(rows: Sequence[tuple[str, Metric]], title: str) -> Markup:
    """A dot with whiskers on either side of zero for each difference."""
    reach = max(
        1e-3,
        *(abs(end) for _, gap in rows for end in (gap.value, gap.low, gap.high) if end is not None),
    )
    step = next(
        nice
        for nice in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
        if nice >= reach / 2
    )
    edge, bottom = 2 * step, _ROW_HEIGHT * len(rows) + 4

    def to_x(value: float) -> float:
        return 50 + 48 * value / edge

    parts = []
    for tick in (-2, -1, 0, 1, 2):
        x, kind = to_x(tick * step), "axis" if tick == 0 else "grid"
        parts.append(
            Markup('<line class="{0}" x1="{1:.2f}%" x2="{1:.2f}%" y1="0" y2="{2}"/>').format(
                kind, x, bottom
            )
        )
        anchor = {-2: "start", 2: "end"}.get(tick, "middle")
        parts.append(
            _draw_text(
                {-2: 0.0, 2: 100.0}.get(tick, x),
                bottom + 16,
                f"{tick * step:+.10g}" if tick else "0",
                "quiet",
                anchor,
            )
        )
    for place, (name, gap) in enumerate(rows):
        y = _ROW_HEIGHT * place + 32
        clear = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
        tone = "blue" if clear else "ink"
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(y - 14, name))
        parts.append(
            Markup('<text class="figure" x="100%" y="{}" text-anchor="end">{:+.3f}</text>').format(
                y - 14, gap.value
            )
        )
        if gap.low is not None and gap.high is not None:
            ends = to_x(gap.low), to_x(gap.high)
            parts.append(
                Markup(
                    '<line class="whisker {0}" x1="{1:.2f}%" x2="{2:.2f}%" y1="{3}" y2="{3}"/>'
                ).format(tone, *ends, y)
            )
        parts.append(
            Markup('<circle class="{}" cx="{:.2f}%" cy="{}" r="5"/>').format(
                tone, to_x(gap.value), y
            )
        )
    described = "; ".join(f"{name}: {gap}" for name, gap in rows)
    return _wrap_svg(bottom + 20, title, described, parts)


def _round_axis_limits(estimates: Sequence[Metric]) -> tuple[float, float]:
    """Limits of the axis: tenths that include all intervals."""
    ends = [end for one in estimates for end in (one.value, one.low, one.high) if end is not None]
    bottom, top = floor(10 * min(ends) + 1e-9) / 10, ceil(10 * max(ends) - 1e-9) / 10
    return (
        (bottom, top)
        if top > bottom
        else (bottom - 0.1, top + 0.1)
        if 0 < bottom < 1
        else (0.0, 1.0)
    )


def _draw_text(x: float, y: float, text: str, tone: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" text-anchor="{}">{}</text>').format(
        tone, x, y, anchor, text
    )


def _wrap_svg(height: int, title: str, described: str, parts: Sequence[Markup]) -> Markup:
    drawn = Markup("").join(parts)
    plot = Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
    )
    return plot.format(height, title, described, drawn)
