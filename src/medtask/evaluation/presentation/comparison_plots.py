"""Plots of a comparison: quality by speed, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

from markupsafe import Markup

from medtask.evaluation.presentation.svg import (
    ROW_HEIGHT,
    draw_dot,
    draw_interval_row,
    draw_line,
    draw_plot,
    draw_text,
)
from medtask.evaluation.statistics.intervals import Metric

_PLOT_HEIGHT = 220  # height of the plot area, in pixels
_PLOT_TOP = 26
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

    parts = [draw_text(0, 12, f"{metric_name}, by rows per second")]
    step = 1 if top - bottom < 0.55 else 2
    for tick in range(round(10 * bottom), round(10 * top) + 1, step):
        y = to_y(tick / 10)
        parts.append(draw_line("grid", _PLOT_LEFT, y, 100, y))
        parts.append(draw_text(0, y + 4, f"{tick / 10:.1f}"))
    for power in range(low, high + 1):
        x = to_x(10.0**power)
        parts.append(draw_line("grid", x, _PLOT_TOP, x, base))
        anchor = "end" if power == high else "middle"
        parts.append(draw_text(x, base + 17, f"{10.0**power:,.10g}", anchor=anchor))
    for number, name, speed, metric in points:
        x, y, tone = to_x(speed), to_y(metric.value), "blue" if number == 1 else "ink"
        if metric.low is not None and metric.high is not None:
            parts.append(draw_line(f"whisker {tone}", x, to_y(metric.low), x, to_y(metric.high)))
        parts.append(draw_dot(tone, x, y, f"{name}: {metric}, {speed:,.1f} rows/s"))
        # 1.2 % are about 9 pixels on a page
        parts.append(draw_text(x + 1.2, y - 4, str(number), ""))
    description = "; ".join(
        f"{name}: {metric} at {speed:,.1f} rows/s" for _, name, speed, metric in points
    )
    return draw_plot(base + 26, title, description, parts)


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
    edge, bottom = 2 * step, ROW_HEIGHT * len(rows) + 4

    def to_x(value: float) -> float:
        return 50 + 48 * value / edge

    parts = []
    for tick in (-2, -1, 0, 1, 2):
        x = to_x(tick * step)
        parts.append(draw_line("axis" if tick == 0 else "grid", x, 0, x, bottom))
        anchor = {-2: "start", 2: "end"}.get(tick, "middle")
        text = f"{tick * step:+.10g}" if tick else "0"
        parts.append(draw_text({-2: 0.0, 2: 100.0}.get(tick, x), bottom + 16, text, anchor=anchor))
    for position, (name, gap) in enumerate(rows):
        clear = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
        texts = name, f"{gap.value:+.3f}"
        parts += draw_interval_row(position, texts, gap, to_x, "blue" if clear else "ink")
    description = "; ".join(f"{name}: {gap}" for name, gap in rows)
    return draw_plot(bottom + 20, title, description, parts)


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
